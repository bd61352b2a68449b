package main

import (
	"fmt"
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

func listenOn(cid, port uint32) (net.Listener, error) {
	listener, err := vsock.ListenContextID(cid, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d (has the kernel CONFIG_VIRTIO_VSOCKETS?): %w", port, err)
	}
	return listener, nil
}
