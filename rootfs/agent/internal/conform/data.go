package conform

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

const far = 4<<30 + 12345 // beyond what 32 bits hold

var dataCases = []Case{
	{"truncate", func(dir string) error {
		return first(write(dir+"/f", "0123456789"), unix.Truncate(dir+"/f", 4), wantContent(dir+"/f", "0123"),
			unix.Truncate(dir+"/f", 6), wantContent(dir+"/f", "0123\x00\x00"),
			opened(dir+"/f", unix.O_RDONLY, 0, func(fd int) error {
				return wantErrno(unix.Ftruncate(fd, 1), unix.EINVAL, "ftruncate of a file open for reading")
			}),
			wantErrno(unix.Truncate(dir, 1), unix.EISDIR, "truncate of a directory"))
	}},
	{"write-at-a-position", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o644, func(fd int) error {
			_, errOne := unix.Pwrite(fd, []byte("tail"), 6)
			_, errTwo := unix.Pwrite(fd, []byte("head"), 0)
			position, errSeek := unix.Seek(fd, 0, unix.SEEK_CUR)
			end, errEnd := unix.Seek(fd, 0, unix.SEEK_END)
			return first(errOne, errTwo, errSeek, errEnd, want(position == 0, "pwrite moved the position to %d", position),
				want(end == 10, "the end is at %d", end), wantContent(dir+"/f", "head\x00\x00tail"))
		})
	}},
	{"read-past-the-end", func(dir string) error {
		return first(write(dir+"/f", "12345"), opened(dir+"/f", unix.O_RDONLY, 0, func(fd int) error {
			n, err := unix.Pread(fd, make([]byte, 10), 3)
			past, errPast := unix.Pread(fd, make([]byte, 10), 100)
			return first(err, errPast, want(n == 2 && past == 0, "%d bytes at the end, %d past it", n, past))
		}))
	}},
	{"large-write", func(dir string) error {
		data := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
		if err := os.WriteFile(dir+"/f", data, 0o644); err != nil {
			return err
		}
		back, err := os.ReadFile(dir + "/f")
		return first(err, want(bytes.Equal(back, data), "5 MiB came back otherwise"))
	}},
	{"offset-beyond-4-gib", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o644, func(fd int) error {
			if _, err := unix.Pwrite(fd, []byte("far"), far); err != nil {
				return err
			}
			back := make([]byte, 8)
			n, err := unix.Pread(fd, back, far)
			low, errLow := unix.Pread(fd, make([]byte, 8), far&0xffffffff)
			end, errEnd := unix.Seek(fd, 0, unix.SEEK_END)
			return first(err, errLow, errEnd, want(string(back[:n]) == "far", "%q", back[:n]), want(low == 8, "no hole"),
				want(end == far+3, "the end is at %d", end), unix.Ftruncate(fd, 0))
		})
	}},
	{"sync", func(dir string) error {
		return first(write(dir+"/f", "x"), opened(dir+"/f", unix.O_WRONLY, 0, func(fd int) error {
			return first(unix.Fdatasync(fd), unix.Fsync(fd), unix.Syncfs(fd))
		}), opened(dir, unix.O_DIRECTORY, 0, unix.Fsync))
	}},
	{"copy-file-range", func(dir string) error {
		return first(write(dir+"/a", "0123456789"), opened(dir+"/a", unix.O_RDONLY, 0, func(from int) error {
			return opened(dir+"/b", unix.O_CREAT|unix.O_WRONLY, 0o644, func(to int) error {
				at, into := int64(2), int64(1)
				n, err := unix.CopyFileRange(from, &at, to, &into, 5, 0)
				return first(err, want(n == 5, "%d bytes copied", n))
			})
		}), wantContent(dir+"/b", "\x0023456"))
	}},
	{"statfs", func(dir string) error {
		var st unix.Statfs_t
		return first(unix.Statfs(dir, &st), want(st.Blocks > 0 && st.Bsize > 0 && st.Namelen >= 255, "blocks %d of %d, names of %d",
			st.Blocks, st.Bsize, st.Namelen))
	}},
}

var sparseCases = []Case{
	{"holes-read-as-zeros", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o644, func(fd int) error {
			_, err := unix.Pwrite(fd, []byte("x"), 10<<20)
			back := make([]byte, block)
			n, errRead := unix.Pread(fd, back, 5<<20)
			return first(err, errRead, want(n == block && bytes.Count(back, []byte{0}) == block, "a hole holds something"))
		})
	}},
	{"seek-data-and-hole", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o644, func(fd int) error {
			_, errOne := unix.Pwrite(fd, bytes.Repeat([]byte("x"), block), 0)
			_, errTwo := unix.Pwrite(fd, bytes.Repeat([]byte("y"), block), 8<<20)
			hole, errHole := unix.Seek(fd, 0, unix.SEEK_HOLE)
			if err := first(errOne, errTwo, errHole); err != nil {
				return err
			}
			if hole == 8<<20+block { // allowed: a file system that records no holes
				return unix.EOPNOTSUPP
			}
			data, errData := unix.Seek(fd, hole, unix.SEEK_DATA)
			_, errEnd := unix.Seek(fd, 9<<20, unix.SEEK_DATA)
			return first(errData, want(hole >= block && hole <= 8<<20 && data > hole && data <= 8<<20, "hole at %d, data at %d", hole, data),
				wantErrno(errEnd, unix.ENXIO, "data past the end"))
		})
	}},
	{"fallocate", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o644, func(fd int) error {
			var st unix.Stat_t
			if err := first(unix.Fallocate(fd, 0, 0, 1<<20), unix.Fstat(fd, &st)); err != nil {
				return err
			}
			kept := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 2<<20)
			size, blocks := st.Size, st.Blocks
			return first(want(size == 1<<20 && blocks > 0, "%d bytes, %d blocks", size, blocks), kept, unix.Fstat(fd, &st),
				want(st.Size == 1<<20, "KEEP_SIZE made it %d", st.Size))
		})
	}},
	{"fallocate-punch-hole", func(dir string) error {
		return opened(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o644, func(fd int) error {
			_, err := unix.Pwrite(fd, bytes.Repeat([]byte("x"), 4*block), 0)
			if err := first(err, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, block, 2*block)); err != nil {
				return err
			}
			expected := bytes.Repeat([]byte("x"), 4*block)
			copy(expected[block:], make([]byte, 2*block))
			return wantContent(dir+"/f", string(expected))
		})
	}},
}

var mapCases = []Case{
	{"map-shared", func(dir string) error {
		return first(write(dir+"/f", string(make([]byte, 3*block))), mapped(dir+"/f", unix.MAP_SHARED, func(fd int, data []byte) error {
			copy(data[block-2:], "crossing")
			back := make([]byte, 8)
			if err := unix.Msync(data, unix.MS_SYNC); err != nil {
				return err
			}
			_, errRead := unix.Pread(fd, back, block-2)
			_, errWrite := unix.Pwrite(fd, []byte("written"), 2*block)
			return first(errRead, errWrite, want(string(back) == "crossing", "read(2) sees %q", back),
				want(string(data[2*block:2*block+7]) == "written", "the map sees %q", data[2*block:2*block+7]))
		}))
	}},
	{"map-private", func(dir string) error {
		return first(write(dir+"/f", "original"), mapped(dir+"/f", unix.MAP_PRIVATE, func(_ int, data []byte) error {
			copy(data, "mine")
			return want(string(data[:8]) == "mineinal", "the map holds %q", data[:8])
		}), wantContent(dir+"/f", "original"))
	}},
	{"map-of-an-unlinked-file", func(dir string) error {
		return first(write(dir+"/f", "original"), mapped(dir+"/f", unix.MAP_SHARED, func(_ int, data []byte) error {
			return first(unix.Unlink(dir+"/f"), want(string(data[:8]) == "original", "the map holds %q", data[:8]))
		}))
	}},
}

// mapped maps three pages of a file, has them used, and unmaps them.
func mapped(path string, flags int, use func(fd int, data []byte) error) error {
	return opened(path, unix.O_RDWR, 0, func(fd int) error {
		data, err := unix.Mmap(fd, 0, 3*block, unix.PROT_READ|unix.PROT_WRITE, flags)
		if err == unix.ENODEV { // what mmap(2) says of a file system that maps nothing
			return unix.EOPNOTSUPP
		}
		if err != nil {
			return err
		}
		defer unix.Munmap(data)
		return use(fd, data)
	})
}
