package main

import (
	"errors"
	"net"
	"testing"

	"github.com/mdlayher/vsock"
)

// from is a connection from an address.
type from struct {
	net.Conn
	address net.Addr
	closed  *bool
}

func (c from) RemoteAddr() net.Addr { return c.address }
func (c from) Close() error         { *c.closed = true; return nil }

// queue is a listener that has some connections, and then an error.
type queue struct {
	net.Listener
	waiting []net.Conn
}

var errNoMore = errors.New("no more")

func (q *queue) Accept() (net.Conn, error) {
	if len(q.waiting) == 0 {
		return nil, errNoMore
	}
	next := q.waiting[0]
	q.waiting = q.waiting[1:]
	return next, nil
}

func TestOnlyTheHostIsServed(t *testing.T) {
	var closed [5]bool
	addresses := []net.Addr{
		&vsock.Addr{ContextID: vsock.Local}, &vsock.Addr{ContextID: 3}, &vsock.Addr{ContextID: vsock.Host, Port: 7},
		&vsock.Addr{ContextID: vsock.Hypervisor}, &net.UnixAddr{},
	}
	var q queue
	for i, address := range addresses {
		q.waiting = append(q.waiting, from{address: address, closed: &closed[i]})
	}
	conn, err := hostOnly{&q}.Accept()
	if err != nil || conn.RemoteAddr() != addresses[2] {
		t.Fatal(conn, err)
	}
	if _, err := (hostOnly{&q}).Accept(); err != errNoMore {
		t.Fatal(err)
	}
	if closed != [5]bool{true, true, false, true, true} {
		t.Error(closed)
	}
}
