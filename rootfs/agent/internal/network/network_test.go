package network

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/jsimonetti/rtnetlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api/types"
	"guestforge.dev/agent/internal/fault"
)

const (
	one = "02:00:00:00:00:01"
	two = "02:00:00:00:00:02"
)

// namespace makes a network namespace with interfaces of these hardware addresses, which are down.
func namespace(t *testing.T, hardware ...string) Network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	made := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // and it ends with this function
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		made <- file
	}()
	file := <-made
	t.Cleanup(func() { file.Close() })
	n := Network{Namespace: int(file.Fd()), Timeout: 100 * time.Millisecond}
	for i, address := range hardware {
		n.plug(t, "old"+string(rune('0'+i)), address)
	}
	return n
}

func (n Network) plug(t *testing.T, name, address string) {
	t.Helper()
	conn, err := n.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hardware, err := net.ParseMAC(address)
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
		Name: name, Address: hardware, Info: &rtnetlink.LinkInfo{Kind: "bridge"},
	}})
	if err != nil {
		t.Skip("no interfaces to try with here:", err)
	}
}

func (n Network) byHardware(t *testing.T, address string) *types.Interface {
	t.Helper()
	all, err := n.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range all {
		if each.HwAddr == address {
			return each
		}
	}
	t.Fatalf("no interface has %s", address)
	return nil
}

func v4(address, mask string) *types.IPAddress { return &types.IPAddress{Address: address, Mask: mask} }

func v6(address, mask string) *types.IPAddress {
	return &types.IPAddress{Family: types.IPFamily_v6, Address: address, Mask: mask}
}

func (n Network) update(t *testing.T, wanted *types.Interface) {
	t.Helper()
	if _, err := n.Update(context.Background(), wanted); err != nil {
		t.Fatal(err)
	}
}

func addresses(i *types.Interface) (all []string) {
	for _, each := range i.IPAddresses {
		if ip := net.ParseIP(each.Address); !ip.IsLinkLocalUnicast() {
			all = append(all, each.Address+"/"+each.Mask)
		}
	}
	return all
}

func TestAnInterfaceIsWhatTheHostSays(t *testing.T) {
	n := namespace(t, one, two)
	n.update(t, &types.Interface{Name: "eth0", HwAddr: one, Mtu: 1400, IPAddresses: []*types.IPAddress{
		v4("10.1.2.3", "24"), v4("10.1.9.9", "32"), v6("fd00::7", "64"),
	}})
	got := n.byHardware(t, one)
	want := []string{"10.1.2.3/24", "10.1.9.9/32", "fd00::7/64"}
	if got.Name != "eth0" || got.Mtu != 1400 || got.RawFlags&unix.IFF_UP == 0 || !slices.Equal(addresses(got), want) {
		t.Errorf("%v", got)
	}
	n.update(t, &types.Interface{Name: "eth0", HwAddr: one, RawFlags: unix.IFF_NOARP, IPAddresses: []*types.IPAddress{v4("10.1.2.4", "16")}})
	got = n.byHardware(t, one)
	if got.Mtu != 1400 || got.RawFlags&unix.IFF_NOARP == 0 || !slices.Equal(addresses(got), []string{"10.1.2.4/16"}) {
		t.Errorf("%v", got)
	}
	if got := n.byHardware(t, two); got.Name != "old1" || got.RawFlags&unix.IFF_UP != 0 {
		t.Errorf("the other one: %v", got)
	}
}

func TestNamesAreExchanged(t *testing.T) {
	n := namespace(t, one, two)
	n.update(t, &types.Interface{Name: "eth0", HwAddr: one})
	n.update(t, &types.Interface{Name: "eth1", HwAddr: two})
	n.update(t, &types.Interface{Name: "eth1", HwAddr: one})
	for address, name := range map[string]string{one: "eth1", two: "eth0"} {
		if got := n.byHardware(t, address); got.Name != name || got.RawFlags&unix.IFF_UP == 0 {
			t.Errorf("%v", got)
		}
	}
}

func TestAnInterfaceThatIsPluggedInIsWaitedFor(t *testing.T) {
	n := namespace(t, one)
	wanted := &types.Interface{Name: "eth0", HwAddr: two}
	if _, err := n.Update(context.Background(), wanted); !is(err, codes.NotFound) {
		t.Error(err)
	}
	wanted.DevicePath = "02/01"
	if _, err := n.Update(context.Background(), wanted); !is(err, codes.NotFound) {
		t.Error(err)
	}
	n.Timeout = 10 * time.Second
	go func() {
		time.Sleep(50 * time.Millisecond)
		n.plug(t, "late", two)
	}()
	n.update(t, wanted)
}

func is(err error, code codes.Code) bool {
	own := (*fault.Error)(nil)
	return errors.As(err, &own) && own.Code == code
}

func TestInterfacesThatAreRefused(t *testing.T) {
	for _, wanted := range []*types.Interface{
		nil, {Name: "eth0"}, {Name: "eth0", HwAddr: "x"}, {HwAddr: one}, {Name: "a/b", HwAddr: one}, {Name: "..", HwAddr: one},
		{Name: "sixteen-letters!", HwAddr: one}, {Name: "eth%d", HwAddr: one}, {Name: "eth0", HwAddr: one, Mtu: maxMTU + 1},
		{Name: "eth0", HwAddr: one, IPAddresses: []*types.IPAddress{v4("10.0.0.1", "33")}},
		{Name: "eth0", HwAddr: one, IPAddresses: []*types.IPAddress{v4("10.0.0.1", "")}},
		{Name: "eth0", HwAddr: one, IPAddresses: []*types.IPAddress{v4("fd00::1", "64")}},
		{Name: "eth0", HwAddr: one, IPAddresses: []*types.IPAddress{v6("10.0.0.1", "24")}},
		{Name: "eth0", HwAddr: one, IPAddresses: make([]*types.IPAddress, maxEntries+1)},
	} {
		if _, err := (Network{}).Update(context.Background(), wanted); !is(err, codes.InvalidArgument) {
			t.Errorf("%v: %v", wanted, err)
		}
	}
}

func TestRoutesAreInThePlaceOfThoseBefore(t *testing.T) {
	n := namespace(t, one)
	n.update(t, &types.Interface{Name: "eth0", HwAddr: one, IPAddresses: []*types.IPAddress{v4("10.1.2.3", "24"), v6("fd00::7", "64")}})
	// the gateway of the first is reached by the second
	wanted := []*types.Route{
		{Gateway: "10.9.0.1", Device: "eth0"},
		{Dest: "10.9.0.1", Device: "eth0", Scope: unix.RT_SCOPE_LINK, Source: "10.1.2.3", Mtu: 1300},
		{Dest: "10.77.0.0/16", Gateway: "10.9.0.1"},
		{Dest: "::/0", Gateway: "fd00::1", Device: "eth0", Family: types.IPFamily_v6},
	}
	all, err := n.SetRoutes(wanted)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []*types.Route{
		{Dest: "", Gateway: "10.9.0.1"}, {Dest: "10.9.0.1/32", Source: "10.1.2.3", Mtu: 1300}, {Dest: "10.77.0.0/16", Gateway: "10.9.0.1"},
		{Dest: "", Gateway: "fd00::1", Family: types.IPFamily_v6}, {Dest: "10.1.2.0/24", Source: "10.1.2.3"},
	} {
		if !slices.ContainsFunc(all, func(got *types.Route) bool {
			return got.Dest == want.Dest && got.Gateway == want.Gateway && got.Source == want.Source && got.Mtu == want.Mtu &&
				got.Device == "eth0" && got.Family == want.Family
		}) {
			t.Errorf("no %v among %v", want, all)
		}
	}
	if all, err = n.SetRoutes([]*types.Route{{Dest: "10.78.0.0/16", Device: "eth0"}}); err != nil {
		t.Fatal(err)
	}
	for _, each := range all {
		if each.Gateway != "" {
			t.Errorf("%v is still there", each)
		}
	}
	before, err := n.Routes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = n.SetRoutes([]*types.Route{{Dest: "10.79.0.0/16", Device: "eth0"}, {Gateway: "172.16.0.1", Device: "eth0"}}); err == nil {
		t.Error("a gateway that is on no link")
	}
	after, err := n.Routes()
	if err != nil || len(after) != len(before) {
		t.Errorf("%v became %v, %v", before, after, err)
	}
}

func TestRoutesThatAreRefused(t *testing.T) {
	n := namespace(t)
	for _, each := range []*types.Route{
		{}, {Dest: "x", Device: "lo"}, {Dest: "10.0.0.0/33", Device: "lo"}, {Dest: "fd00::/8", Device: "lo"},
		{Dest: "10.0.0.0/8", Device: "lo", Family: types.IPFamily_v6}, {Gateway: "x"}, {Gateway: "10.0.0.1", Source: "fd00::1"},
	} {
		if _, err := n.SetRoutes([]*types.Route{each}); !is(err, codes.InvalidArgument) {
			t.Errorf("%v: %v", each, err)
		}
	}
	if _, err := n.SetRoutes([]*types.Route{{Device: "none"}}); !is(err, codes.NotFound) {
		t.Error(err)
	}
	if _, err := n.SetRoutes(make([]*types.Route, maxEntries+1)); !is(err, codes.InvalidArgument) {
		t.Error(err)
	}
}

func TestNeighboursNeedNotBeAsked(t *testing.T) {
	n := namespace(t, one)
	n.update(t, &types.Interface{Name: "eth0", HwAddr: one, IPAddresses: []*types.IPAddress{v4("10.1.2.3", "24")}})
	for _, hardware := range []string{two, "02:00:00:00:00:03"} { // the later one holds
		err := n.AddNeighbours([]*types.ARPNeighbor{
			{ToIPAddress: v4("10.1.2.1", ""), Device: "eth0", Lladdr: hardware},
			{ToIPAddress: v6("fd00::1", ""), Device: "eth0", Lladdr: hardware, State: unix.NUD_REACHABLE},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	conn, err := n.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	found, err := conn.Neigh.List()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]uint16{}
	for _, each := range found {
		known[each.Attributes.Address.String()+" "+each.Attributes.LLAddress.String()] = each.State
	}
	if known["10.1.2.1 02:00:00:00:00:03"] != unix.NUD_PERMANENT || known["fd00::1 02:00:00:00:00:03"] != unix.NUD_REACHABLE {
		t.Errorf("%v", known)
	}
	for code, wrong := range map[*types.ARPNeighbor]codes.Code{
		{}: codes.InvalidArgument, {ToIPAddress: v4("x", ""), Device: "eth0", Lladdr: one}: codes.InvalidArgument,
		{ToIPAddress: v4("10.1.2.1", ""), Device: "eth0"}:              codes.InvalidArgument,
		{ToIPAddress: v4("10.1.2.1", ""), Device: "none", Lladdr: one}: codes.NotFound,
	} {
		if err := n.AddNeighbours([]*types.ARPNeighbor{code}); !is(err, wrong) {
			t.Errorf("%v: %v", code, err)
		}
	}
}
