// Package peer looks at the other side of a connection.
package peer

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/descriptor"
)

// Gone tells whether the other side has closed its connection altogether. A vsock says so to who sends, even nothing:
// https://elixir.bootlin.com/linux/v6.12/source/net/vmw_vsock/af_vsock.c (vsock_connectible_sendmsg)
func Gone(conn net.Conn) bool {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	err := descriptor.Use(socket, func(fd int) error { return unix.Send(fd, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) })
	return err != nil && !errors.Is(err, unix.EAGAIN)
}
