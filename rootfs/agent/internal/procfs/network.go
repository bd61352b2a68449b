package procfs

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const devices = "/proc/net/dev"

// Interface is what a network interface has carried.
type Interface struct {
	Name           string
	Received, Sent Traffic
}

// Traffic is one direction of an interface.
type Traffic struct{ Bytes, Packets, Errors, Dropped uint64 }

// Interfaces returns the network interfaces of this process's namespace, but for the loopback.
func Interfaces() ([]Interface, error) {
	text, err := os.ReadFile(devices)
	if err != nil {
		return nil, err
	}
	return parseInterfaces(string(text))
}

// parseInterfaces reads proc_pid_net(5)'s dev: two lines of heads, then a name, eight counters of what was received, and
// eight of what was sent.
func parseInterfaces(text string) ([]Interface, error) {
	var found []Interface
	for number, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if number < 2 {
			continue
		}
		name, rest, named := strings.Cut(strings.TrimSpace(line), ":")
		words := strings.Fields(rest)
		if !named || len(words) < 16 {
			return nil, fmt.Errorf("%s: not an interface: %q", devices, line)
		}
		if name == "lo" {
			continue
		}
		received, err := traffic(words[:8])
		if err != nil {
			return nil, err
		}
		sent, err := traffic(words[8:16])
		if err != nil {
			return nil, err
		}
		found = append(found, Interface{name, received, sent})
	}
	return found, nil
}

func traffic(words []string) (Traffic, error) {
	var values [4]uint64
	for i := range values {
		var err error
		if values[i], err = strconv.ParseUint(words[i], 10, 64); err != nil {
			return Traffic{}, fmt.Errorf("%s: %w", devices, err)
		}
	}
	return Traffic{values[0], values[1], values[2], values[3]}, nil
}
