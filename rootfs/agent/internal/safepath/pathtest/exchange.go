// Package pathtest is for tests of paths in which somebody else changes what they lead through.
package pathtest

import "golang.org/x/sys/unix"

// Exchanging exchanges two names without end, until what it returns is called.
func Exchanging(one, other string) func() {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
			}
		}
	}()
	return func() { close(stop); <-stopped }
}
