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

// callers has all sorts of peers wait on a listener, of which the host is the third; closed tells whose connections were closed.
func callers(closed *[5]bool) (*queue, net.Addr) {
	addresses := []net.Addr{
		&vsock.Addr{ContextID: vsock.Local}, &vsock.Addr{ContextID: 3}, &vsock.Addr{ContextID: vsock.Host, Port: 7},
		&vsock.Addr{ContextID: vsock.Hypervisor}, &net.UnixAddr{},
	}
	var q queue
	for i, address := range addresses {
		q.waiting = append(q.waiting, from{address: address, closed: &closed[i]})
	}
	return &q, addresses[2]
}

// Each way in which a port is opened, as log stream, debug console and server do: a listener is only what it hands out.
func TestOnlyTheHostIsServed(t *testing.T) {
	real := openPort
	defer func() { openPort = real }()
	for name, open := range map[string]func() (net.Listener, error){
		"a port":               func() (net.Listener, error) { return listenVsock(1025) },
		"any of its addresses": func() (net.Listener, error) { return listen("vsock://-1:1024") },
		"one of its addresses": func() (net.Listener, error) { return listen("vsock://3:1024") },
	} {
		var closed [5]bool
		q, host := callers(&closed)
		openPort = func(uint32, uint32) (net.Listener, error) { return q, nil }
		listener, err := open()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil || conn.RemoteAddr() != host {
			t.Fatal(name, conn, err)
		}
		if _, err := listener.Accept(); err != errNoMore {
			t.Fatal(name, err)
		}
		if closed != [5]bool{true, true, false, true, true} {
			t.Error(name, closed)
		}
	}
}
