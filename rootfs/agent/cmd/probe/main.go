// The probe is the program that the boot checks run in containers. It is in no image: the host puts it on the storage
// under test. It does one thing, and says on standard output in one JSON object what came of it; it judges nothing.
// `probe serve` does what it is told on standard input, one thing a line, until that ends: {"id":N,"args":[COMMAND, ...]}
// for each, and the answer is a line with that "id".
//
//	read PATH [direct] [nofollow]  {"size","sha256","mode","uid","gid","mtime","mtime_ns","nlink"}; opened with flags
//	write PATH SIZE SEED [MODE]    {"size","sha256"}: the content is SHA-256 of "SEED:0", "SEED:1", ..., cut to SIZE
//	list DIR                       {"count","names","sha256"}: of the sorted names, each with a newline
//	stat PATH                      {"type","size","mode",...}, and "target" of a symbolic link, which is not followed
//	rename A B, unlink P, chmod P MODE, truncate P SIZE, mkdir P [MODE]     {}
//	mounts                         {"mounts":[{"target","fstype","source"}]}
//	echo-env NAME                  {"value","set","uid","gid","cwd","hostname","pid","args","capabilities"}
//	exit CODE, sleep SECONDS       {}, and that exit code, or that pause first
//	terminal                       {"line","rows","columns","own","console"}: a line of input, and its terminal
//	cgroup                         {"path"} of its cgroup, seen from its namespace
//	limits                         {"memory.max","pids.max","cpu.max"}: texts, of its cgroup
//	watch; caught SECONDS          {}, from when on signals do not end it; {"signal"}: the number of one that came
//	take                           takes memory until it is ended for that
//
// What a container must not be able to do, and how far it came:
//
//	stop-others SECONDS            {}, having stopped all processes that it may again and again for so long
//	bomb                           makes processes, which make processes
//	devices                        {"opened","refused"}: lists of "block 254:0" and the like, all that the kernel has
//	opens PATH, put PATH TEXT      {"error"}: the name of an error such as EPERM, or "", of opening and of writing it
//	writable DIR...                {"tried","opened"}: how many files, and those that could be opened for writing
//	attempt                        {"calls"}: what only the guest may do, each with an error's name, or ""
//	symlink TARGET PATH, mknod PATH block|char MAJOR MINOR                  {}
//
// `probe copy` copies its standard input to its output, and says nothing else.
//
// Capabilities are hexadecimal sets: inheritable, permitted, effective, bounding, ambient. Modes are octal, mtime_ns and mtime
// nanoseconds and seconds since 1970. An answer has "ok": true; a failure is {"ok": false, "error": TEXT} with exit code 1.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type answer map[string]any

type command struct {
	least, most int // arguments
	do          func(args []string) (answer, error)
}

var commands = map[string]command{
	"read":        {1, 3, read},
	"write":       {3, 4, write},
	"list":        {1, 1, list},
	"stat":        {1, 1, stat},
	"rename":      {2, 2, func(args []string) (answer, error) { return nil, os.Rename(args[0], args[1]) }},
	"unlink":      {1, 1, unlink},
	"chmod":       {2, 2, chmod},
	"truncate":    {2, 2, truncate},
	"mkdir":       {1, 2, mkdir},
	"mounts":      {0, 0, mounts},
	"echo-env":    {1, 1, echoEnv},
	"exit":        {1, 1, exit},
	"sleep":       {1, 1, sleep},
	"terminal":    {0, 0, terminal},
	"cgroup":      {0, 0, tellCgroup},
	"limits":      {0, 0, limits},
	"watch":       {0, 0, watch},
	"caught":      {1, 1, tellCaught},
	"take":        {0, 0, take},
	"stop-others": {1, 1, stopOthers},
	"bomb":        {0, 0, bomb},
	"devices":     {0, 0, devices},
	"opens":       {1, 1, opens},
	"put":         {2, 2, put},
	"writable":    {1, 9, writable},
	"attempt":     {0, 0, attempt},
	"symlink":     {2, 2, func(args []string) (answer, error) { return nil, os.Symlink(args[0], args[1]) }},
	"mknod":       {4, 4, mknod},
}

// talks are commands that go on until their standard input ends.
var talks = map[string]func(in io.Reader, out io.Writer) error{"serve": serve, "copy": copyAll}

func main() {
	if len(os.Args) == 2 && talks[os.Args[1]] != nil {
		if err := talks[os.Args[1]](os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	said := tell(os.Args[1:])
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil || said["ok"] != true {
		os.Exit(1)
	}
	if code, ok := said["exit"].(int); ok {
		os.Exit(code)
	}
}

type request struct {
	ID   int      `json:"id"`
	Args []string `json:"args"`
}

// serve answers each request before it reads the next one.
func serve(in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var wanted request
		if err := requests.Decode(&wanted); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		said := tell(wanted.Args)
		said["id"] = wanted.ID
		if err := answers.Encode(said); err != nil {
			return err
		}
	}
}

func copyAll(in io.Reader, out io.Writer) error {
	_, err := io.Copy(onlyWriter{out}, onlyReader{in})
	return err
}

// tell does something and returns what is said of it.
func tell(args []string) answer {
	said, err := perform(args)
	if err != nil {
		return answer{"ok": false, "error": err.Error()}
	}
	if said == nil {
		said = answer{}
	}
	said["ok"] = true
	return said
}

func perform(args []string) (answer, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("no command")
	}
	c, known := commands[args[0]]
	if !known {
		return nil, fmt.Errorf("no such command: %q", args[0])
	}
	if n := len(args) - 1; n < c.least || n > c.most {
		return nil, fmt.Errorf("%s takes %d to %d arguments, not %d", args[0], c.least, c.most, n)
	}
	return c.do(args[1:])
}

func echoEnv(args []string) (answer, error) {
	value, set := os.LookupEnv(args[0])
	directory, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	hostname, err := os.Hostname()
	return answer{
		"value": value, "set": set, "uid": os.Getuid(), "gid": os.Getgid(), "cwd": directory, "hostname": hostname,
		"pid": os.Getpid(), "args": os.Args, "capabilities": capabilities(),
	}, err
}

// capabilities returns this process's sets in the kernel's order; nothing where there is no /proc.
func capabilities() string {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return ""
	}
	var sets []string
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.HasPrefix(name, "Cap") {
			number, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return err.Error()
			}
			sets = append(sets, strconv.FormatUint(number, 16))
		}
	}
	return strings.Join(sets, " ")
}

func exit(args []string) (answer, error) {
	code, err := strconv.ParseUint(args[0], 10, 8)
	return answer{"exit": int(code)}, err
}

func sleep(args []string) (answer, error) {
	seconds, err := strconv.ParseFloat(args[0], 64)
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	return nil, err
}

// terminal waits for a line, and tells of the terminal that it came from: its size, whether it is this session's own, and
// whether /dev/console is the same.
func terminal([]string) (answer, error) {
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return nil, err
	}
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return nil, err
	}
	own, err := unix.IoctlGetUint32(0, unix.TIOCGSID) // a pid_t, of 32 bits
	if err != nil {
		return nil, fmt.Errorf("session of the terminal: %w", err)
	}
	session, err := unix.Getsid(0)
	if err != nil {
		return nil, err
	}
	var here, console unix.Stat_t
	same := unix.Fstat(0, &here) == nil && unix.Stat("/dev/console", &console) == nil && here.Rdev == console.Rdev
	return answer{"line": line, "rows": size.Row, "columns": size.Col, "own": int(own) == session, "console": same}, nil
}
