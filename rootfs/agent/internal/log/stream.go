package log

import (
	"io"
	"net"
	"sync"
	"time"

	"guestforge.dev/agent/internal/peer"
)

const (
	backlogBytes = 64 << 10        // of the newest lines, for who connects later
	queueLines   = 1024            // a reader that is further behind is cut off: it must not hold up the agent
	farewell     = 5 * time.Second // in which a reader that was cut off can still take what was queued for it
	again        = time.Second     // how often a reader that says no more is looked after
)

// Stream gives the lines written to it to every connection that it has accepted, the newest of the past first.
type Stream struct {
	mu      sync.Mutex
	backlog [][]byte
	size    int
	readers map[*reader]struct{}
}

// reader is a connection and what is queued for it.
type reader struct {
	conn  net.Conn
	lines chan []byte
}

// NewStream returns a stream without connections.
func NewStream() *Stream { return &Stream{readers: map[*reader]struct{}{}} }

// Write takes one line. It never blocks and never fails.
func (s *Stream) Write(line []byte) (int, error) {
	kept := append([]byte(nil), line...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backlog = append(s.backlog, kept)
	for s.size += len(kept); s.size > backlogBytes; s.backlog = s.backlog[1:] {
		s.size -= len(s.backlog[0])
	}
	for r := range s.readers {
		select {
		case r.lines <- kept:
		default:
			delete(s.readers, r)
			close(r.lines)
			r.conn.SetWriteDeadline(time.Now().Add(farewell))
		}
	}
	return len(line), nil
}

// Serve accepts connections until the listener is closed.
func (s *Stream) Serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go s.feed(conn)
	}
}

func (s *Stream) feed(conn net.Conn) {
	defer conn.Close()
	r := s.subscribe(conn)
	defer s.unsubscribe(r)
	gone, fed := make(chan struct{}), make(chan struct{})
	defer close(fed)
	go func() {
		defer close(gone)
		io.Copy(io.Discard, conn)
		for !peer.Gone(conn) { // the end of what it says is not the end of what it reads
			select {
			case <-time.After(again):
			case <-fed:
				return
			}
		}
	}()
	for {
		select {
		case line, open := <-r.lines:
			if !open {
				return
			}
			if _, err := conn.Write(line); err != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

func (s *Stream) subscribe(conn net.Conn) *reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &reader{conn, make(chan []byte, len(s.backlog)+queueLines)}
	for _, line := range s.backlog {
		r.lines <- line
	}
	s.readers[r] = struct{}{}
	return r
}

func (s *Stream) unsubscribe(r *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.readers, r)
}
