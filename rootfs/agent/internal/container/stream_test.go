package container

import (
	"context"
	"testing"
	"time"
)

// pipe returns a reader and the end that its process would have.
func pipe(t *testing.T) (*reader, interface{ Write([]byte) (int, error) }) {
	t.Helper()
	ends, err := streamPipe(true, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return newReader(ends[0]), ends[1]
}

func TestOutputEndsThoughOthersHoldThePipe(t *testing.T) {
	r, w := pipe(t)
	w.Write([]byte("last words"))
	r.processEnded()
	begun := time.Now()
	if data, err := r.read(context.Background(), 100); string(data) != "last words" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	for range 2 {
		if data, err := r.read(context.Background(), 100); len(data) != 0 || err != nil {
			t.Errorf("%q, %v", data, err)
		}
	}
	if waited := time.Since(begun); waited < drain/2 || waited > 10*drain {
		t.Errorf("waited %v", waited)
	}
}

func TestACallThatGivesUpLeavesTheOutputToTheNext(t *testing.T) {
	r, w := pipe(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if data, err := r.read(ctx, 100); err != context.DeadlineExceeded {
		t.Errorf("%q, %v", data, err)
	}
	w.Write([]byte("late"))
	if data, err := r.read(context.Background(), 2); string(data) != "la" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := r.read(context.Background(), 100); string(data) != "te" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}
