package main

import (
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"

	"github.com/mdlayher/vsock"

	"guestforge.dev/agent/internal/cmdline"
)

func listen(text string) (net.Listener, error) {
	address, err := cmdline.ParseAddress(text)
	if err != nil {
		return nil, err
	}
	if address.Unix == "" {
		return listenOn(address.CID, address.Port)
	}
	if address.Unix[0] == '/' {
		os.Remove(address.Unix) // of an agent before this one
	}
	return net.Listen("unix", address.Unix)
}

// listenVsock listens on a port of whichever address the guest has: it may have none yet, or get another.
func listenVsock(port uint32) (net.Listener, error) { return listenOn(math.MaxUint32, port) }

// openPort is the kernel's; a test has one of its own.
var openPort = func(cid, port uint32) (net.Listener, error) { return vsock.ListenContextID(cid, port, nil) }

func listenOn(cid, port uint32) (net.Listener, error) {
	listener, err := openPort(cid, port)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d (has the kernel CONFIG_VIRTIO_VSOCKETS?): %w", port, err)
	}
	return hostOnly{listener}, nil
}

// hostOnly takes connections of the host alone. Where the kernel has VSOCKETS_LOOPBACK, or passes packets of other guests
// on, anybody who can open a socket could use the agent otherwise: every container, for one.
type hostOnly struct{ net.Listener }

func (l hostOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from, ok := conn.RemoteAddr().(*vsock.Addr); ok && from.ContextID == vsock.Host {
			return conn, nil
		}
		slog.Warn("connection refused: it is not the host's", "from", conn.RemoteAddr())
		conn.Close()
	}
}
