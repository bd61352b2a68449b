package shim

import (
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/safepath"
	"guestforge.dev/agent/internal/seccomp"
)

// A shim is one from here on, and main is never reached: packages that this one has no use for are not prepared.
func init() {
	if len(os.Args) > 0 && (os.Args[0] == InitName || os.Args[0] == ExecName || isHelper()) {
		serve()
	}
}

func isHelper() bool { return os.Args[0] == EnterName && len(os.Args) >= 3 }

// serve is the program of a shim; it does not return.
func serve() {
	if isHelper() {
		report := os.NewFile(reportFD, "report")
		if err := forkInto(report); err != nil {
			complain(report, err)
		}
		os.Exit(0)
	}
	// Name spaces and credentials are the thread's: everything from here to the execve happens on the main one, where an init
	// runs. Threads that Go starts must have neither; told of the lock, it starts them from another one.
	runtime.LockOSThread()
	status := os.NewFile(statusFD, "status")
	complain(status, run(status))
	os.Exit(126) // what shells return for a program that can't be run
}

func run(status *os.File) error {
	// A process of the container may see this one before its execve, and must not read the agent's memory through it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	for fd := specFD; fd < firstFree; fd++ {
		unix.CloseOnExec(fd)
	}
	spec, err := readSpec()
	if err != nil {
		return err
	}
	if os.Args[0] == InitName {
		err = build(spec)
	} else {
		err = joinContainer()
	}
	if err != nil {
		return err
	}
	return launch(spec, status)
}

func readSpec() (*api.Spec, error) {
	data, err := io.ReadAll(os.NewFile(specFD, "spec"))
	if err != nil {
		return nil, fmt.Errorf("read the spec: %w", err)
	}
	spec := &api.Spec{}
	if err := proto.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("read the spec: %w", err)
	}
	return spec, nil
}

// joinContainer enters the container. Its pid namespace is entered by a fork, which is a helper's doing.
func joinContainer() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // no mount namespace for a thread that shares its root
		return fmt.Errorf("leave the shared file system state: %w", err)
	}
	const spaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Setns(pidFD, spaces); err != nil {
		return fmt.Errorf("enter the container: %w", err)
	}
	return nil
}

// launch makes the process what the spec says, waits for the release and runs the program.
func launch(spec *api.Spec, status *os.File) error {
	process := spec.Process
	filter, err := seccomp.Compile(spec.Linux.GetSeccomp())
	if err != nil {
		return err
	}
	if _, err := status.Write([]byte{ready}); err != nil {
		return err
	}
	var released [1]byte
	if n, err := os.NewFile(releaseFD, "release").Read(released[:]); n != 1 {
		return fmt.Errorf("never released: %w", err)
	}
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return fmt.Errorf("new session: %w", err)
	}
	if process.Terminal {
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
			return fmt.Errorf("take the terminal: %w", err)
		}
	}
	if err := changeDirectory(process.Cwd); err != nil {
		return err
	}
	program, err := find(process)
	if err != nil {
		return err
	}
	variables := environment(process)
	for standard := range 3 { // its user may open them anew, as /dev/stdout
		if err := unix.Fchown(standard, int(process.User.GetUID()), int(process.User.GetGID())); err != nil {
			return fmt.Errorf("give the standard streams away: %w", err)
		}
	}
	if err := restrict(process, filter); err != nil {
		return err
	}
	if err := startHooks(spec); err != nil {
		return err
	}
	return &os.PathError{Op: "run", Path: program, Err: unix.Exec(program, process.Args, variables)}
}

// changeDirectory enters a directory of the container's, which this process's root is, having made it where it is missing.
func changeDirectory(directory string) error {
	if directory == "" {
		directory = "/"
	}
	err := unix.Chdir(directory)
	if err == unix.ENOENT {
		return makeAndEnter(directory)
	}
	if err != nil {
		return &os.PathError{Op: "change into", Path: directory, Err: err}
	}
	return nil
}

func makeAndEnter(directory string) error {
	root, err := safepath.Open("/", safepath.Inside)
	if err != nil {
		return err
	}
	defer root.Close()
	made, err := root.Mkdir(directory, 0o755)
	if err != nil {
		return fmt.Errorf("make the working directory: %w", err)
	}
	defer made.Close()
	return unix.Fchdir(int(made.Fd()))
}
