package log

import (
	"io"
	"net"
	"sync"
	"time"
)

const (
	backlogBytes = 64 << 10 // of the newest lines, for who connects later
	queueLines   = 1024     // a reader that is further behind is cut off: it must not hold up the agent
	writeTimeout = 5 * time.Second
)

// Stream gives the lines written to it to every connection that it has accepted, the newest of the past first.
type Stream struct {
	mu      sync.Mutex
	backlog [][]byte
	size    int
	readers map[chan []byte]struct{}
}

// NewStream returns a stream without connections.
func NewStream() *Stream { return &Stream{readers: map[chan []byte]struct{}{}} }

// Write takes one line. It never blocks and never fails.
func (s *Stream) Write(line []byte) (int, error) {
	kept := append([]byte(nil), line...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backlog = append(s.backlog, kept)
	for s.size += len(kept); s.size > backlogBytes; s.backlog = s.backlog[1:] {
		s.size -= len(s.backlog[0])
	}
	for reader := range s.readers {
		select {
		case reader <- kept:
		default:
			delete(s.readers, reader)
			close(reader)
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
	lines := s.subscribe()
	defer s.unsubscribe(lines)
	gone := make(chan struct{})
	go func() {
		io.Copy(io.Discard, conn)
		close(gone)
	}()
	for {
		select {
		case line, open := <-lines:
			if !open || writeLine(conn, line) != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

func writeLine(conn net.Conn, line []byte) error {
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := conn.Write(line)
	return err
}

func (s *Stream) subscribe() chan []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := make(chan []byte, len(s.backlog)+queueLines)
	for _, line := range s.backlog {
		lines <- line
	}
	s.readers[lines] = struct{}{}
	return lines
}

func (s *Stream) unsubscribe(lines chan []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.readers, lines)
}
