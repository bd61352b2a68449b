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

// Traffic is one direction of an interface: the table's columns, of which the first four are the same in both.
type Traffic [8]uint64

// Columns of Traffic.
const (
	Bytes = iota
	Packets
	Errors
	Dropped
)

// Interfaces returns the network interfaces of this process's namespace, the loopback among them.
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
		each := Interface{Name: name}
		if !named || len(words) < len(each.Received)+len(each.Sent) {
			return nil, fmt.Errorf("%s: not an interface: %q", devices, line)
		}
		if err := each.Received.parse(words); err != nil {
			return nil, err
		}
		if err := each.Sent.parse(words[len(each.Received):]); err != nil {
			return nil, err
		}
		found = append(found, each)
	}
	return found, nil
}

func (t *Traffic) parse(words []string) error {
	for i := range t {
		var err error
		if t[i], err = strconv.ParseUint(words[i], 10, 64); err != nil {
			return fmt.Errorf("%s: %w", devices, err)
		}
	}
	return nil
}
