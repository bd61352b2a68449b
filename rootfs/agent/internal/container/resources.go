package container

import (
	"context"
	"log/slog"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/procfs"
)

// Update changes a container's limits; those that are not named stay as they are.
func (m *Manager) Update(id string, asked *api.LinuxResources) error {
	if asked == nil {
		return fault.Invalid("no resources to be changed")
	}
	if err := checkFields(&api.Spec{Linux: &api.Linux{Resources: asked}}); err != nil {
		return err
	}
	c, err := m.get(id)
	if err != nil {
		return err
	}
	if names := ignored(asked); names != "" {
		slog.Warn("limits are not enforced", "container", id, "of", names)
	}
	return c.cgroup.Update(asked)
}

// Stats tells what a container has used. Its network is the guest's, which all containers share.
func (m *Manager) Stats(id string) (*api.StatsContainerResponse, error) {
	c, err := m.get(id)
	if err != nil {
		return nil, err
	}
	used, err := c.cgroup.Stats()
	if err != nil {
		return nil, err
	}
	network, err := procfs.Interfaces()
	if err != nil {
		return nil, err
	}
	return &api.StatsContainerResponse{CgroupStats: used, NetworkStats: networkStats(network)}, nil
}

// networkStats leaves the loopback out.
func networkStats(network []procfs.Interface) (stats []*api.NetworkStats) {
	for _, each := range network {
		if each.Name == "lo" {
			continue
		}
		in, out := each.Received, each.Sent
		stats = append(stats, &api.NetworkStats{
			Name:    each.Name,
			RxBytes: in[procfs.Bytes], RxPackets: in[procfs.Packets], RxErrors: in[procfs.Errors], RxDropped: in[procfs.Dropped],
			TxBytes: out[procfs.Bytes], TxPackets: out[procfs.Packets], TxErrors: out[procfs.Errors], TxDropped: out[procfs.Dropped],
		})
	}
	return stats
}

// Pause stops all processes of a container that runs, or has them go on.
func (m *Manager) Pause(id string, wanted bool) error {
	c, err := m.get(id)
	if err != nil {
		return err
	}
	return c.pause(wanted)
}

// pause stops all processes, or has them go on.
func (c *container) pause(wanted bool) error {
	c.freezer.Lock()
	defer c.freezer.Unlock()
	if err := c.keepOut(wanted); err != nil {
		return err
	}
	err := c.cgroup.Freeze(wanted)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = wanted == (err == nil)
	return err
}

// keepOut has nobody enter any more, before a container is frozen and until it is thawed.
func (c *container) keepOut(wanted bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.running(); err != nil {
		return err
	}
	if c.paused == wanted {
		is := map[bool]string{true: "is paused already", false: "is not paused"}
		return fault.New(codes.FailedPrecondition, "container %s %s", c.id, is[wanted])
	}
	c.paused = true
	return nil
}

// OOMEvent waits for a container that has lost a process to the lack of memory, and returns its id.
func (m *Manager) OOMEvent(ctx context.Context) (string, error) {
	id, err := m.Cgroups.NextOOM(ctx)
	if err == nil {
		slog.Warn("a container is out of memory", "container", id)
	}
	return id, err
}
