// Package network sets up the guest's network as the host says: interfaces, routes, neighbours. It is that of all
// containers.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jsimonetti/rtnetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api/types"
	"guestforge.dev/agent/internal/fault"
)

const (
	maxEntries = 1024 // of a request
	maxMTU     = 1 << 16
	lookAgain  = 20 * time.Millisecond // for an interface that is being plugged in
	temporary  = "guestforge0"         // the name of an interface that gives up its own
)

// Network is a network namespace. The zero value is that of this process.
type Network struct {
	Namespace int           // a descriptor of another
	Timeout   time.Duration // for an interface that was plugged in
}

// link is an interface as the kernel has it, and its addresses.
type link struct {
	rtnetlink.LinkMessage
	addresses []rtnetlink.AddressMessage
}

func (n Network) dial() (*rtnetlink.Conn, error) {
	conn, err := rtnetlink.Dial(&netlink.Config{NetNS: n.Namespace})
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	return conn, nil
}

func links(conn *rtnetlink.Conn) ([]*link, error) {
	found, err := conn.Link.List()
	if err != nil {
		return nil, err
	}
	addresses, err := conn.Address.List()
	if err != nil {
		return nil, err
	}
	var all []*link
	for _, each := range found {
		one := &link{LinkMessage: each}
		for _, address := range addresses {
			if address.Index == each.Index {
				one.addresses = append(one.addresses, address)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// Interfaces returns all interfaces.
func (n Network) Interfaces() ([]*types.Interface, error) {
	conn, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	found, err := links(conn)
	if err != nil {
		return nil, err
	}
	var all []*types.Interface
	for _, each := range found {
		all = append(all, each.describe())
	}
	return all, nil
}

func (l *link) describe() *types.Interface {
	answer := &types.Interface{
		Device: l.Attributes.Name, Name: l.Attributes.Name, Mtu: uint64(l.Attributes.MTU),
		HwAddr: l.Attributes.Address.String(), RawFlags: l.Flags,
	}
	for _, address := range l.addresses {
		answer.IPAddresses = append(answer.IPAddresses, &types.IPAddress{
			Family: family(address.Family), Address: address.Attributes.Address.String(),
			Mask: strconv.Itoa(int(address.PrefixLength)),
		})
	}
	return answer
}

// Update gives the interface with a hardware address its name, MTU and addresses, in the place of those that it has, and
// brings it up. One that is to be plugged in, which has a device path, is waited for.
func (n Network) Update(ctx context.Context, wanted *types.Interface) (*types.Interface, error) {
	hardware, addresses, err := check(wanted)
	if err != nil {
		return nil, err
	}
	conn, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	one, err := n.find(ctx, conn, hardware, wanted.DevicePath != "")
	if err != nil {
		return nil, err
	}
	if one.Attributes.Name != wanted.Name {
		if err := rename(conn, one, wanted.Name); err != nil {
			return nil, fmt.Errorf("name %s of the interface %s: %w", wanted.Name, hardware, err)
		}
	}
	if err := readdress(conn, one, addresses); err != nil {
		return nil, err
	}
	return wanted, up(conn, one, wanted)
}

// check returns the hardware address and the addresses of an interface, or what is wrong with them.
func check(wanted *types.Interface) (net.HardwareAddr, []rtnetlink.AddressMessage, error) {
	if wanted == nil {
		return nil, nil, fault.Invalid("no interface to be updated")
	}
	hardware, err := net.ParseMAC(wanted.HwAddr)
	if err != nil {
		return nil, nil, fault.Invalid("hardware address %.40q of an interface", wanted.HwAddr)
	}
	if err := checkName(wanted.Name); err != nil {
		return nil, nil, err
	}
	if wanted.Mtu > maxMTU || len(wanted.IPAddresses) > maxEntries {
		return nil, nil, fault.Invalid("an interface with an MTU of %d and %d addresses", wanted.Mtu, len(wanted.IPAddresses))
	}
	var addresses []rtnetlink.AddressMessage
	for _, each := range wanted.IPAddresses {
		address, err := parseAddress(each)
		if err != nil {
			return nil, nil, err
		}
		addresses = append(addresses, address)
	}
	return hardware, addresses, nil
}

// checkName refuses what the kernel does (dev_valid_name in net/core/dev.c), and names that it numbers itself.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00") {
		return fault.Invalid("name %.40q of an interface", name)
	}
	return nil
}

func parseAddress(each *types.IPAddress) (rtnetlink.AddressMessage, error) {
	ip, bits, err := parseIP(each.Address, each.Family)
	if err != nil {
		return rtnetlink.AddressMessage{}, err
	}
	length, err := strconv.Atoi(each.Mask)
	if err != nil || length < 0 || length > bits {
		return rtnetlink.AddressMessage{}, fault.Invalid("prefix length %.40q of the address %s", each.Mask, ip)
	}
	message := rtnetlink.AddressMessage{
		Family: uint8(families[each.Family]), PrefixLength: uint8(length),
		Attributes: &rtnetlink.AddressAttributes{Address: ip, Local: ip},
	}
	if each.Family == types.IPFamily_v6 { // it is the host's to give: nobody needs to be asked whether it is taken
		message.Attributes.Flags = unix.IFA_F_NODAD
	}
	return message, nil
}

var families = map[types.IPFamily]int{types.IPFamily_v4: unix.AF_INET, types.IPFamily_v6: unix.AF_INET6}

func family(number uint8) types.IPFamily {
	if number == unix.AF_INET6 {
		return types.IPFamily_v6
	}
	return types.IPFamily_v4
}

// parseIP returns an address of a family, and how many bits such an address has.
func parseIP(text string, wanted types.IPFamily) (net.IP, int, error) {
	ip := net.ParseIP(text)
	four := ip.To4()
	switch {
	case ip == nil || (four != nil) != (wanted == types.IPFamily_v4):
		return nil, 0, fault.Invalid("not an address of family %v: %.60q", wanted, text)
	case four != nil:
		return four, 32, nil
	}
	return ip, 128, nil
}

func (n Network) find(ctx context.Context, conn *rtnetlink.Conn, hardware net.HardwareAddr, wait bool) (*link, error) {
	limit := time.After(n.Timeout)
	for {
		all, err := links(conn)
		if err != nil {
			return nil, err
		}
		for _, each := range all {
			if each.Attributes.Address.String() == hardware.String() {
				return each, nil
			}
		}
		missing := fault.New(codes.NotFound, "no interface has the hardware address %s", hardware)
		if !wait {
			return nil, missing
		}
		select {
		case <-time.After(lookAgain):
		case <-limit:
			return nil, missing
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// rename gives an interface a name. Another one that has it gets the first one's: the host says both in turn.
func rename(conn *rtnetlink.Conn, one *link, name string) error {
	all, err := links(conn)
	if err != nil {
		return err
	}
	before := one.Attributes.Name
	for _, other := range all {
		if other.Attributes.Name != name {
			continue
		}
		return errors.Join(
			set(conn, other, temporary, 0), set(conn, one, name, 0), set(conn, other, before, other.Flags&unix.IFF_UP),
		)
	}
	return set(conn, one, name, 0)
}

// set names an interface, which must be down for that, and brings it up where flags say so.
func set(conn *rtnetlink.Conn, one *link, name string, flags uint32) error {
	if err := conn.Link.Set(&rtnetlink.LinkMessage{Index: one.Index, Change: unix.IFF_UP}); err != nil {
		return err
	}
	named := &rtnetlink.LinkMessage{Index: one.Index, Attributes: &rtnetlink.LinkAttributes{Name: name}}
	if err := conn.Link.Set(named); err != nil {
		return err
	}
	if flags&unix.IFF_UP == 0 {
		return nil
	}
	return conn.Link.Set(&rtnetlink.LinkMessage{Index: one.Index, Flags: unix.IFF_UP, Change: unix.IFF_UP})
}

// readdress puts addresses in the place of those that an interface has.
func readdress(conn *rtnetlink.Conn, one *link, addresses []rtnetlink.AddressMessage) error {
	for _, each := range one.addresses {
		if each.Family == unix.AF_INET6 && each.Attributes.Address.IsLinkLocalUnicast() {
			continue // the kernel's own
		}
		if err := conn.Address.Delete(&each); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("address %s: %w", each.Attributes.Address, err)
		}
	}
	for _, each := range addresses {
		each.Index = one.Index
		if err := conn.Address.New(&each); err != nil {
			return fmt.Errorf("address %s: %w", each.Attributes.Address, err)
		}
	}
	return nil
}

func up(conn *rtnetlink.Conn, one *link, wanted *types.Interface) error {
	message := &rtnetlink.LinkMessage{
		Index: one.Index, Flags: unix.IFF_UP | wanted.RawFlags&unix.IFF_NOARP, Change: unix.IFF_UP | unix.IFF_NOARP,
		Attributes: &rtnetlink.LinkAttributes{Name: wanted.Name, MTU: uint32(wanted.Mtu)},
	}
	if err := conn.Link.Set(message); err != nil {
		return fmt.Errorf("interface %s: %w", wanted.Name, err)
	}
	return nil
}

// AddNeighbours tells of hosts on a link whose hardware addresses need not be asked for.
func (n Network) AddNeighbours(neighbours []*types.ARPNeighbor) error {
	if len(neighbours) > maxEntries {
		return fault.Invalid("%d neighbours", len(neighbours))
	}
	conn, err := n.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	indices, err := byName(conn)
	if err != nil {
		return err
	}
	for _, each := range neighbours {
		message, err := neighbour(each, indices)
		if err != nil {
			return err
		}
		flags := netlink.Request | netlink.Create | netlink.Replace | netlink.Acknowledge
		if _, err := conn.Execute(message, unix.RTM_NEWNEIGH, flags); err != nil {
			return fmt.Errorf("neighbour %s: %w", each.ToIPAddress.Address, err)
		}
	}
	return nil
}

func neighbour(each *types.ARPNeighbor, indices indices) (*rtnetlink.NeighMessage, error) {
	if each.ToIPAddress == nil {
		return nil, fault.Invalid("a neighbour without an address")
	}
	ip, _, err := parseIP(each.ToIPAddress.Address, each.ToIPAddress.Family)
	if err != nil {
		return nil, err
	}
	hardware, err := net.ParseMAC(each.Lladdr)
	if err != nil {
		return nil, fault.Invalid("hardware address %.40q of the neighbour %s", each.Lladdr, ip)
	}
	index, err := indices.of(each.Device)
	if err != nil {
		return nil, err
	}
	state := uint16(each.State)
	if state == 0 {
		state = unix.NUD_PERMANENT
	}
	return &rtnetlink.NeighMessage{
		Family: uint16(families[each.ToIPAddress.Family]), Index: index, State: state, Flags: uint8(each.Flags),
		Attributes: &rtnetlink.NeighAttributes{Address: ip, LLAddress: hardware, IfIndex: index},
	}, nil
}

// indices are the interfaces' numbers by their names.
type indices map[string]uint32

func byName(conn *rtnetlink.Conn) (indices, error) {
	found, err := conn.Link.List()
	if err != nil {
		return nil, err
	}
	all := indices{}
	for _, each := range found {
		all[each.Attributes.Name] = each.Index
	}
	return all, nil
}

func (i indices) of(name string) (uint32, error) {
	index, known := i[name]
	if !known {
		return 0, fault.New(codes.NotFound, "no interface %.40q", name)
	}
	return index, nil
}
