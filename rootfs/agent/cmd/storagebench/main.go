// The storagebench program measures a file system from inside a guest, and says in one JSON object on standard output
// how many seconds each piece of work took. It is in no image.
//
//	storagebench DIR    {"sequential_write","sequential_read","random_read","small_files"}
//
// The work: 64 MiB in blocks of 1 MiB written and synced; the same read, past the page cache; 2,048 blocks of 4 KiB
// read in an order that no one foresees; 1,000 files made, looked at and removed. What is read is compared.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	large  = 1 << 20
	blocks = 64
	small  = 4 << 10
	reads  = 2048
	files  = 1000
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "storagebench DIR")
		os.Exit(2)
	}
	seconds, err := measure(os.Args[1])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(seconds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func measure(dir string) (map[string]float64, error) {
	path := dir + "/large"
	seconds := map[string]float64{}
	for _, work := range []struct {
		name string
		do   func() error
	}{
		{"sequential_write", func() error { return writeAll(path) }},
		{"sequential_read", func() error { return uncached(path, readAll) }},
		{"random_read", func() error { return uncached(path, readRandomly) }},
		{"small_files", func() error { return smallFiles(dir) }},
	} {
		start := time.Now()
		if err := work.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", work.name, err)
		}
		seconds[work.name] = time.Since(start).Seconds()
	}
	return seconds, os.Remove(path)
}

// A block holds its number, every 4 KiB; between them is what is the same in all, so that little time goes into it.
var pattern = bytes.Repeat([]byte("guestforge bench"), large/16)

func content(block int) []byte {
	for at := 0; at < large; at += small {
		copy(pattern[at:], fmt.Sprintf("block %09d\n", block))
	}
	return pattern
}

func writeAll(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := range blocks {
		if _, err := file.Write(content(block)); err != nil {
			return err
		}
	}
	return file.Sync()
}

// uncached opens a file, and has the guest's kernel forget what it keeps of it.
func uncached(path string, use func(*os.File) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	return use(file)
}

func readAll(file *os.File) error {
	data := make([]byte, large)
	for block := range blocks {
		if n, err := file.ReadAt(data, int64(block)*large); err != nil || n != large {
			return fmt.Errorf("block %d: %d bytes, %w", block, n, err)
		}
		if !bytes.Equal(data, content(block)) {
			return fmt.Errorf("block %d holds something else", block)
		}
	}
	return nil
}

func readRandomly(file *os.File) error {
	data := make([]byte, small)
	order := rand.New(rand.NewPCG(1, 2)) // the same in every run
	for range reads {
		at := order.IntN(blocks*large/small) * small
		if _, err := file.ReadAt(data, int64(at)); err != nil {
			return err
		}
		if want := fmt.Sprintf("block %09d\n", at/large); string(data[:16]) != want {
			return fmt.Errorf("at %d stands %q", at, data[:16])
		}
	}
	return nil
}

func smallFiles(dir string) error {
	for number := range files {
		path := fmt.Sprintf("%s/%04d", dir, number)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
