package cmdline

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Address is where a server listens: a port of AF_VSOCK, or a Unix socket (for tests without a machine).
type Address struct {
	CID, Port uint32
	Unix      string // a path, or "@" and a name in the abstract namespace; empty for vsock
}

// ParseAddress reads vsock://CID:PORT (CID -1 is any), unix:///PATH and unix://@NAME.
func ParseAddress(text string) (Address, error) {
	scheme, rest, found := strings.Cut(text, "://")
	switch {
	case found && scheme == "vsock":
		return parseVsock(text, rest)
	case found && scheme == "unix" && len(rest) > 1 && (rest[0] == '/' || rest[0] == '@'):
		return Address{Unix: rest}, nil
	}
	return Address{}, fmt.Errorf("not an address (vsock://CID:PORT, unix:///PATH, unix://@NAME): %q", text)
}

func parseVsock(text, rest string) (Address, error) {
	left, right, _ := strings.Cut(rest, ":")
	port, err := parsePort(right)
	if err != nil {
		return Address{}, fmt.Errorf("in %q: %w", text, err)
	}
	if left == "-1" {
		return Address{CID: math.MaxUint32, Port: port}, nil
	}
	cid, err := strconv.ParseUint(left, 10, 32)
	if err != nil {
		return Address{}, fmt.Errorf("not a vsock CID in %q: %q", text, left)
	}
	return Address{CID: uint32(cid), Port: port}, nil
}
