package storage

import (
	"context"
	"errors"
	"testing"
	"time"

	"guestforge.dev/agent/internal/api"
)

// A host that does not answer when it is asked for the directory of watchable volumes holds up nobody but who asks for one.
func TestNobodyWaitsForTheHostOfAnother(t *testing.T) {
	m := &Manager{Base: t.TempDir()}
	directory := m.Base + "/shared/containers/watchable"
	asked := &cover{made: make(chan struct{}), names: map[string]bool{"first": true}}
	m.covers = map[string]*cover{directory: asked}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	waiting := make(chan error)
	go func() {
		volume := &api.Storage{Driver: "watchable-bind", Source: m.Base + "/shared/containers/x", MountPoint: directory + "/x"}
		_, err := m.Mount(ctx, []*api.Storage{volume})
		waiting <- err
	}()
	for range 10 {
		local := &api.Storage{Driver: "local", MountPoint: m.Base + "/dir"}
		set, err := m.Mount(context.Background(), []*api.Storage{local})
		if err = errors.Join(err, m.Unmount(set)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := <-waiting; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if len(asked.names) != 1 || m.covers[directory] != asked {
		t.Errorf("%v, %v", asked.names, m.covers)
	}
}
