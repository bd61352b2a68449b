package container

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"testing"
	"time"
)

// stream returns a reader and the end that its process would have. size is the pipe's in bytes, 0 the kernel's default.
func stream(t *testing.T, size int) (*reader, *os.File) {
	t.Helper()
	ends, err := streamPipe(true, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return newReader(ends[0]), ends[1]
}

func TestOutputEndsThoughOthersHoldThePipe(t *testing.T) {
	r, w := stream(t, 0)
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
	r, w := stream(t, 0)
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

// However late and slow a reader is, it gets all that was written before it is told the end; whether or not others hold
// the pipe.
func TestNothingInThePipeIsLostToALateReader(t *testing.T) {
	for name, c := range map[string]struct {
		size       int
		late, slow time.Duration
		held       bool
	}{
		"late":               {6, drain + 100*time.Millisecond, 0, false},
		"late, held":         {6, drain + 100*time.Millisecond, 0, true},
		"slow":               {288_894, 0, 100 * time.Millisecond, false},
		"slow, held":         {288_894, 0, 100 * time.Millisecond, true},
		"late and slow":      {60_000, drain * 2, 50 * time.Millisecond, false},
		"a full pipe's last": {1 << 20, drain * 2, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w := stream(t, 1<<20)
			want := bytes.Repeat([]byte("0123456789a"), c.size/11+1)[:c.size]
			if _, err := w.Write(want); err != nil {
				t.Fatal(err)
			}
			if !c.held {
				w.Close()
			}
			r.processEnded()
			time.Sleep(c.late)
			var got []byte
			for {
				data, err := r.read(context.Background(), 32<<10)
				if err != nil {
					t.Fatal(err)
				}
				if len(data) == 0 {
					break
				}
				got = append(got, data...)
				time.Sleep(c.slow)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d", len(got), len(want))
			}
		})
	}
}

// A caller that is gone takes nothing with it, be the process's end long ago or not.
func TestACallerThatIsGoneTakesNothing(t *testing.T) {
	r, w := stream(t, 0)
	w.Write([]byte("last words"))
	r.processEnded()
	time.Sleep(drain + 50*time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 {
		if data, err := r.read(ctx, 100); err != context.Canceled {
			t.Fatalf("%q, %v", data, err)
		}
	}
	if data, err := r.read(context.Background(), 100); string(data) != "last words" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

// What ends a call that gave up must not pass for the end of the stream to the call after it.
func TestADeadlineOfTheCallBeforeIsNotTheEnd(t *testing.T) {
	r, w := stream(t, 0)
	go func() {
		time.Sleep(20 * time.Millisecond)
		r.deadline(context.Canceled) // as a call does that has just come to its end
		time.Sleep(20 * time.Millisecond)
		w.Write([]byte("later"))
	}()
	if data, err := r.read(context.Background(), 100); string(data) != "later" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

// A call that gives up, at whatever moment, ends itself alone.
func TestAWriteThatGaveUpLeavesTheInputToTheNext(t *testing.T) {
	ends, err := streamPipe(false, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ends[0].Close()
	defer ends[1].Close()
	taken := make([]byte, 100)
	for i := range 300 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		n, err := write(ctx, ends[1], []byte("x"))
		if err != nil && err != context.Canceled {
			t.Fatalf("%d: %v", i, err)
		}
		runtime.Gosched()
		if m, err := write(context.Background(), ends[1], []byte("yz")); m != 2 || err != nil {
			t.Fatalf("%d: %d bytes, %v", i, m, err)
		}
		if got, err := ends[0].Read(taken); got != n+2 || err != nil {
			t.Fatalf("%d: %q, %v", i, taken[:got], err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if n, err := write(ctx, ends[1], make([]byte, 1<<20)); n == 0 || err != context.DeadlineExceeded {
		t.Errorf("%d bytes into a full pipe, %v", n, err)
	}
}
