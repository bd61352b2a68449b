package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

const (
	maxHooks      = 64
	maxHookOutput = 1024 // bytes, of what a hook that fails has said
)

// CheckHooks returns an error for hooks that can't be run.
func CheckHooks(hooks []*api.Hook) error {
	if len(hooks) > maxHooks {
		return fault.Invalid("%d hooks", len(hooks))
	}
	for _, hook := range hooks {
		if !filepath.IsAbs(hook.Path) || hook.Timeout < 0 || hook.Timeout > int64(time.Hour/time.Second) {
			return fault.Invalid("hook %.100q with a limit of %d s", hook.Path, hook.Timeout)
		}
		for _, text := range append(append([]string{hook.Path}, hook.Args...), hook.Env...) {
			if strings.IndexByte(text, 0) >= 0 {
				return fault.Invalid("hook %.100q: a NUL byte in an argument or a variable", hook.Path)
			}
		}
	}
	return nil
}

// startHooks runs the hooks that come last before the container's program, one after the other. They are the container's:
// programs in its root, with the user and the privileges of its first process, which this thread has by now
// (OCI runtime specification, config.md, "StartContainer Hooks").
func startHooks(spec *api.Spec) error {
	hooks := spec.Hooks.GetStartContainer()
	if len(hooks) == 0 {
		return nil
	}
	state, err := json.Marshal(stateOf(spec))
	if err != nil {
		return err
	}
	for _, hook := range hooks {
		if err := runHook(hook, state); err != nil {
			return fmt.Errorf("hook %s: %w", hook.Path, err)
		}
	}
	return nil
}

// stateOf is what hooks read (OCI runtime specification, runtime.md, "State").
func stateOf(spec *api.Spec) map[string]any {
	bundle := filepath.Dir(spec.Root.Path)
	return map[string]any{
		"ociVersion": spec.Version, "id": filepath.Base(bundle), "status": "created", "pid": os.Getpid(), "bundle": bundle,
		"annotations": spec.Annotations,
	}
}

// runHook runs a hook to its end. Its input and output are files in memory: nobody has to feed a pipe, or to wait for one that
// what it leaves behind holds open.
func runHook(hook *api.Hook, state []byte) error {
	input, err := memory("state", state)
	if err != nil {
		return err
	}
	defer unix.Close(input)
	output, err := memory("output", nil)
	if err != nil {
		return err
	}
	defer unix.Close(output)
	args := hook.Args
	if len(args) == 0 {
		args = []string{hook.Path}
	}
	pidfd := -1
	attr := &syscall.ProcAttr{
		Env: hook.Env, Files: []uintptr{uintptr(input), uintptr(output), uintptr(output)},
		Sys: &syscall.SysProcAttr{PidFD: &pidfd},
	}
	pid, err := syscall.ForkExec(hook.Path, args, attr)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	return hookEnded(pid, pidfd, output, time.Duration(hook.Timeout)*time.Second)
}

// memory returns a file with a content, to be read from its beginning.
func memory(name string, content []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return 0, err
	}
	if _, err := unix.Pwrite(fd, content, 0); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// hookEnded waits for the end of a hook, which must be a good one. Without a limit of its own it has that of the whole start,
// with which the agent ends this process, and so all others here.
func hookEnded(pid, pidfd, output int, limit time.Duration) error {
	ends, deadline := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, time.Now().Add(limit)
	for {
		left := -1
		if limit > 0 {
			left = max(0, int(time.Until(deadline).Milliseconds()))
		}
		ready, err := unix.Poll(ends, left)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if ready == 0 {
			return fmt.Errorf("not at its end after %v", limit)
		}
		break
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if status.ExitStatus() == 0 {
		return nil
	}
	said := make([]byte, maxHookOutput)
	n, _ := unix.Pread(output, said, 0)
	return fmt.Errorf("status %#x: %q", int(status), said[:max(n, 0)])
}
