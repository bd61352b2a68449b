package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Flags whose values differ between architectures: a server that takes a guest's for its own does something else.
var openFlags = map[string]int{"direct": syscall.O_DIRECT, "nofollow": syscall.O_NOFOLLOW}

func read(args []string) (answer, error) {
	flags := os.O_RDONLY
	for _, name := range args[1:] {
		flag, known := openFlags[name]
		if !known {
			return nil, fmt.Errorf("not a flag: %q", name)
		}
		flags |= flag
	}
	file, err := os.OpenFile(args[0], flags, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// O_DIRECT reads to where pages begin, and a mapping is made of pages
	buffer, err := syscall.Mmap(-1, 0, 1<<16, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, err
	}
	defer syscall.Munmap(buffer)
	hash := sha256.New()
	size, err := io.CopyBuffer(onlyWriter{hash}, onlyReader{file}, buffer)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	said := facts(info)
	said["size"], said["sha256"] = size, hex.EncodeToString(hash.Sum(nil))
	return said, nil
}

// These have no other methods, by which io.CopyBuffer would do without its buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

func stat(args []string) (answer, error) {
	info, err := os.Lstat(args[0])
	if err != nil {
		return nil, err
	}
	said := facts(info)
	if info.Mode()&os.ModeSymlink != 0 {
		said["target"], err = os.Readlink(args[0])
	}
	return said, err
}

var kinds = map[uint32]string{
	syscall.S_IFREG: "file", syscall.S_IFDIR: "directory", syscall.S_IFLNK: "symlink", syscall.S_IFCHR: "char",
	syscall.S_IFBLK: "block", syscall.S_IFIFO: "fifo", syscall.S_IFSOCK: "socket",
}

func facts(info os.FileInfo) answer {
	status := info.Sys().(*syscall.Stat_t)
	return answer{
		"type": kinds[status.Mode&syscall.S_IFMT], "size": status.Size, "mode": status.Mode & 0o7777,
		"uid": status.Uid, "gid": status.Gid, "nlink": uint64(status.Nlink),
		"mtime": status.Mtim.Sec, "mtime_ns": status.Mtim.Nano(),
	}
}

// write makes a new file, or one anew, and has it on the storage before it tells.
func write(args []string) (answer, error) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil || size < 0 {
		return nil, fmt.Errorf("not a size: %q", args[1])
	}
	mode := uint64(0o644)
	if len(args) > 3 {
		if mode, err = parseMode(args[3]); err != nil {
			return nil, err
		}
	}
	file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_TRUNC, os.FileMode(mode&0o777))
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(file, hash), &pattern{seed: args[2]}, size); err != nil {
		return nil, err
	}
	if err := syscall.Fchmod(int(file.Fd()), uint32(mode)); err != nil {
		return nil, err
	}
	if err := file.Sync(); err != nil {
		return nil, err
	}
	return answer{"size": size, "sha256": hex.EncodeToString(hash.Sum(nil))}, file.Close()
}

// pattern is an endless stream: SHA-256 of the seed, a colon and the block's number in decimal, block after block.
type pattern struct {
	seed   string
	number uint64
	rest   []byte
}

func (p *pattern) Read(into []byte) (int, error) {
	done := 0
	for done < len(into) {
		if len(p.rest) == 0 {
			block := sha256.Sum256([]byte(p.seed + ":" + strconv.FormatUint(p.number, 10)))
			p.number++
			p.rest = block[:]
		}
		n := copy(into[done:], p.rest)
		p.rest = p.rest[n:]
		done += n
	}
	return done, nil
}

func list(args []string) (answer, error) {
	directory, err := os.Open(args[0])
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	names, err := directory.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	hash := sha256.New()
	for _, name := range names {
		io.WriteString(hash, name+"\n")
	}
	return answer{"count": len(names), "names": names, "sha256": hex.EncodeToString(hash.Sum(nil))}, nil
}

func unlink(args []string) (answer, error) { return nil, syscall.Unlink(args[0]) }

func chmod(args []string) (answer, error) {
	mode, err := parseMode(args[1])
	if err != nil {
		return nil, err
	}
	return nil, syscall.Chmod(args[0], uint32(mode))
}

func truncate(args []string) (answer, error) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return nil, err
	}
	return nil, os.Truncate(args[0], size)
}

func mkdir(args []string) (answer, error) {
	if len(args) == 1 {
		return nil, syscall.Mkdir(args[0], 0o755)
	}
	mode, err := parseMode(args[1])
	if err != nil {
		return nil, err
	}
	if err := syscall.Mkdir(args[0], uint32(mode)); err != nil {
		return nil, err
	}
	return nil, syscall.Chmod(args[0], uint32(mode)) // whatever the umask is
}

func parseMode(text string) (uint64, error) {
	mode, err := strconv.ParseUint(text, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("not a mode: %q", text)
	}
	return mode, nil
}

// mounts tells the lines of /proc/self/mountinfo, in their order (proc_pid_mountinfo(5)).
func mounts([]string) (answer, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	found := []answer{}
	for line := range strings.Lines(string(text)) {
		left, right, _ := strings.Cut(strings.TrimSpace(line), " - ")
		place, kind := strings.Fields(left), strings.Fields(right)
		if len(place) < 6 || len(kind) < 2 {
			return nil, fmt.Errorf("not a line of mountinfo: %q", line)
		}
		found = append(found, answer{"target": place[4], "fstype": kind[0], "source": kind[1], "options": place[5]})
	}
	return answer{"mounts": found}, nil
}
