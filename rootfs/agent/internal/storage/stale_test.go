package storage

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"guestforge.dev/agent/internal/fault"
)

func TestEachMountOfTheShareIsLookedAt(t *testing.T) {
	m := &Manager{}
	var seen []string
	look := func(point string) error {
		seen = append(seen, point)
		return os.ErrNotExist // that one goes, and the next is looked at
	}
	for range 2 {
		if err := m.lookAtAll(context.Background(), []string{"/s/a/b", "/s/a"}, look); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"/s/a/b", "/s/a", "/s/a/b", "/s/a"}; !slices.Equal(seen, want) {
		t.Errorf("%v", seen)
	}
	if err := m.LookAtMounts(context.Background(), "/proc"); err != nil {
		t.Error(err)
	}
}

func TestAHostThatDoesNotAnswerHoldsUpNoOther(t *testing.T) {
	m := &Manager{}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	answer := make(chan struct{})
	stopped := func(string) error { <-answer; return nil }
	if err := m.lookAtAll(ctx, []string{"/s"}, stopped); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	err := m.lookAtAll(context.Background(), []string{"/s"}, stopped)
	if own := (*fault.Error)(nil); !errors.As(err, &own) || own.Code != codes.Unavailable {
		t.Errorf("a second round beside it: %v", err)
	}
	close(answer)
	for deadline := time.Now().Add(5 * time.Second); m.looking.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the round has no end")
		}
	}
	if err := m.lookAtAll(context.Background(), nil, stopped); err != nil {
		t.Error(err)
	}
}
