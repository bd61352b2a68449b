// Package console is the debug console: a shell for who may connect to it, or on the guest's own console.
package console

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/peer"
	"guestforge.dev/agent/internal/reaper"
)

var shells = []string{"/bin/bash", "/bin/sh"}

var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux",
}

// again is how long the guest's console waits before it offers a new shell, and how often a caller who types no more is
// looked after.
const again = time.Second

// endOfInput is VEOF of a new terminal, Ctrl-D: the first may end a line without a break, the second is the end.
const endOfInput = "\x04\x04"

// Serve gives each connection a shell of its own, on a terminal of its own.
func Serve(listener net.Listener, r *reaper.Reaper) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := converse(conn, r); err != nil {
				slog.Warn("debug console", "error", err)
				fmt.Fprintf(conn, "debug console: %v\r\n", err)
			}
		}()
	}
}

// OnConsole keeps a shell on the guest's console.
func OnConsole(r *reaper.Reaper) {
	for ; ; time.Sleep(again) {
		terminal, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			slog.Warn("debug console", "error", err)
			return
		}
		shell, err := start(terminal, r)
		terminal.Close()
		if err != nil {
			slog.Warn("debug console", "error", err)
			return
		}
		<-shell.Done()
	}
}

func converse(conn net.Conn, r *reaper.Reaper) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	shell, err := start(slave, r)
	slave.Close()
	if err != nil {
		return err
	}
	slog.Info("debug console opened", "pid", shell.Pid)
	go feed(master, conn, shell)
	io.Copy(conn, master) // ends with an error when the last process leaves the terminal
	return nil
}

// feed passes on what is typed. The end of a pipe is the end of the shell's input, and what came before it is still to be
// done; once nobody reads the answer either, the terminal hangs up.
func feed(master io.Writer, conn net.Conn, shell *reaper.Child) {
	io.Copy(master, conn)
	for !peer.Gone(conn) {
		io.WriteString(master, endOfInput) // said again: a shell that edits its lines takes it at its prompt only
		select {
		case <-shell.Done():
			return
		case <-time.After(again):
		}
	}
	shell.Signal(unix.SIGHUP)
	shell.Signal(unix.SIGCONT)
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return master, slave, nil
}

func start(terminal *os.File, r *reaper.Reaper) (*reaper.Child, error) {
	fd := terminal.Fd()
	attr := &syscall.ProcAttr{
		Dir: "/", Env: environment, Files: []uintptr{fd, fd, fd},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	}
	for _, shell := range shells {
		if unix.Access(shell, unix.X_OK) == nil {
			return r.Start(func() (int, error) { return syscall.ForkExec(shell, []string{"-" + shell}, attr) })
		}
	}
	return nil, fmt.Errorf("no shell in this guest: %v", shells)
}
