package storage

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/mount"
)

// LookAtMounts looks at each mount point below a directory, which is a share: the kernel asks the host for it then, and
// where the host has no such directory any more it gives up the mount, and with it what the host's server keeps open
// (https://github.com/kata-containers/kata-containers/issues/6455). The host may leave a look without an answer, so it is
// not waited for beyond the context, and there is one round at a time.
func (m *Manager) LookAtMounts(ctx context.Context, directory string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	return m.lookAtAll(ctx, mount.Below(table, directory), func(point string) error {
		var status unix.Stat_t
		return unix.Lstat(point, &status)
	})
}

func (m *Manager) lookAtAll(ctx context.Context, points []string, look func(string) error) error {
	if !m.looking.CompareAndSwap(false, true) {
		return fault.New(codes.Unavailable, "the mounts of the share are still being looked at")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer m.looking.Store(false)
		for _, point := range points {
			if err := look(point); err != nil {
				slog.Info("a mount point of the share has gone", "on", point, "error", err)
			}
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the host leaves a look at a mount of the share without an answer: %w", ctx.Err())
	}
}
