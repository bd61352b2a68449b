package network

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jsimonetti/rtnetlink"
	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api/types"
	"guestforge.dev/agent/internal/fault"
)

// Routes returns the routes of the main table.
func (n Network) Routes() ([]*types.Route, error) {
	conn, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return routes(conn)
}

func routes(conn *rtnetlink.Conn) ([]*types.Route, error) {
	found, err := mainTable(conn)
	if err != nil {
		return nil, err
	}
	indices, err := byName(conn)
	if err != nil {
		return nil, err
	}
	names := map[uint32]string{}
	for name, index := range indices {
		names[index] = name
	}
	var all []*types.Route
	for _, each := range found {
		all = append(all, describe(each, names))
	}
	return all, nil
}

func mainTable(conn *rtnetlink.Conn) ([]rtnetlink.RouteMessage, error) {
	found, err := conn.Route.List()
	return slices.DeleteFunc(found, func(each rtnetlink.RouteMessage) bool {
		return each.Table != unix.RT_TABLE_MAIN || each.Type != unix.RTN_UNICAST
	}), err
}

func describe(each rtnetlink.RouteMessage, names map[uint32]string) *types.Route {
	answer := &types.Route{
		Device: names[each.Attributes.OutIface], Scope: uint32(each.Scope), Family: family(each.Family), Flags: each.Flags,
		Gateway: text(each.Attributes.Gateway), Source: text(each.Attributes.Src),
	}
	if each.DstLength > 0 {
		answer.Dest = fmt.Sprintf("%s/%d", each.Attributes.Dst, each.DstLength)
	}
	if each.Attributes.Metrics != nil {
		answer.Mtu = each.Attributes.Metrics.MTU
	}
	return answer
}

func text(ip net.IP) string {
	if ip == nil {
		return ""
	}
	return ip.String()
}

// SetRoutes puts routes in the place of those that there are, but for the kernel's own, and returns all. Where one of them
// can't be, those before are as they were.
func (n Network) SetRoutes(wanted []*types.Route) ([]*types.Route, error) {
	if len(wanted) > maxEntries {
		return nil, fault.Invalid("%d routes", len(wanted))
	}
	conn, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	indices, err := byName(conn)
	if err != nil {
		return nil, err
	}
	var made []*rtnetlink.RouteMessage
	for _, each := range wanted {
		message, err := parseRoute(each, indices)
		if err != nil {
			return nil, err
		}
		made = append(made, message)
	}
	before, err := mainTable(conn)
	if err != nil {
		return nil, err
	}
	before = slices.DeleteFunc(before, func(each rtnetlink.RouteMessage) bool { return each.Protocol == unix.RTPROT_KERNEL })
	for _, each := range before {
		if err := conn.Route.Delete(&each); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
	}
	if err := add(conn, made); err != nil {
		return nil, errors.Join(err, restore(conn, made, before))
	}
	return routes(conn)
}

// add makes routes, those first that need no other one to be reached: a gateway must be on a link.
func add(conn *rtnetlink.Conn, made []*rtnetlink.RouteMessage) error {
	slices.SortStableFunc(made, func(a, b *rtnetlink.RouteMessage) int {
		return len(a.Attributes.Gateway) - len(b.Attributes.Gateway)
	})
	for _, each := range made {
		each.Flags &= unix.RTNH_F_ONLINK // the others are the kernel's to tell, and it refuses them
		if err := conn.Route.Replace(each); err != nil {
			return fmt.Errorf("route to %s/%d: %w", each.Attributes.Dst, each.DstLength, err)
		}
	}
	return nil
}

func restore(conn *rtnetlink.Conn, made []*rtnetlink.RouteMessage, before []rtnetlink.RouteMessage) error {
	for _, each := range made {
		_ = conn.Route.Delete(each) // it may not have come so far
	}
	var all []*rtnetlink.RouteMessage
	for i := range before {
		all = append(all, &before[i])
	}
	return add(conn, all)
}

func parseRoute(each *types.Route, indices indices) (*rtnetlink.RouteMessage, error) {
	message := &rtnetlink.RouteMessage{
		Family: uint8(families[each.Family]), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC, Type: unix.RTN_UNICAST,
		Scope: uint8(each.Scope), Flags: each.Flags,
	}
	var err error
	if each.Device != "" {
		if message.Attributes.OutIface, err = indices.of(each.Device); err != nil {
			return nil, err
		}
	}
	if each.Mtu > 0 {
		message.Attributes.Metrics = &rtnetlink.RouteMetrics{MTU: each.Mtu}
	}
	if each.Dest != "" {
		if message.Attributes.Dst, message.DstLength, err = parseDestination(each); err != nil {
			return nil, err
		}
	}
	for _, part := range []struct {
		text string
		ip   *net.IP
	}{{each.Gateway, &message.Attributes.Gateway}, {each.Source, &message.Attributes.Src}} {
		if part.text == "" {
			continue
		}
		if *part.ip, _, err = parseIP(part.text, each.Family); err != nil {
			return nil, err
		}
	}
	if message.Attributes.Gateway == nil && each.Device == "" {
		return nil, fault.Invalid("a route to %.60q with neither a gateway nor an interface", each.Dest)
	}
	return message, nil
}

// parseDestination returns a network, or the one address that is meant where no length of its prefix stands.
func parseDestination(each *types.Route) (net.IP, uint8, error) {
	if !strings.Contains(each.Dest, "/") {
		ip, bits, err := parseIP(each.Dest, each.Family)
		return ip, uint8(bits), err
	}
	_, found, err := net.ParseCIDR(each.Dest)
	if err != nil {
		return nil, 0, fault.Invalid("not a network: %.60q", each.Dest)
	}
	length, bits := found.Mask.Size()
	if (bits == 32) != (each.Family == types.IPFamily_v4) {
		return nil, 0, fault.Invalid("not a network of family %v: %.60q", each.Family, each.Dest)
	}
	if length == 0 {
		return nil, 0, nil // the default route
	}
	return found.IP, uint8(length), nil
}
