package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The digest is that of guestforge.check.exercise.pattern("seed", 100): both sides must make the same bytes.
func TestWhatIsWrittenFollowsFromTheSeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	said, err := perform([]string{"write", path, "100", "seed", "4750"})
	if err != nil || said["sha256"] != "82bc25f685527e8d68d86a98fb494144bd0eb55231589152cde74bd0d0c5e22a" {
		t.Errorf("%v, %v", said, err)
	}
	again, err := perform([]string{"read", path})
	if err != nil || again["sha256"] != said["sha256"] || again["size"] != int64(100) || again["mode"] != uint32(0o4750) {
		t.Errorf("%v, %v", again, err)
	}
}

func TestFilesAreReadWithFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := perform([]string{"write", path, "100001", "seed"}); err != nil {
		t.Fatal(err)
	}
	plain, err := perform([]string{"read", path})
	if err != nil {
		t.Fatal(err)
	}
	if said, err := perform([]string{"read", path, "nofollow"}); err != nil || said["sha256"] != plain["sha256"] {
		t.Errorf("%v, %v", said, err)
	}
	if err := os.Symlink(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	if said, err := perform([]string{"read", path + ".link", "nofollow"}); err == nil {
		t.Errorf("followed: %v", said)
	}
	said, err := perform([]string{"read", path, "direct"})
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("no O_DIRECT here")
	}
	if err != nil || said["sha256"] != plain["sha256"] {
		t.Errorf("%v, %v", said, err)
	}
}

func TestALinkIsNotFollowed(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("somewhere", link); err != nil {
		t.Fatal(err)
	}
	said, err := perform([]string{"stat", link})
	if err != nil || said["type"] != "symlink" || said["target"] != "somewhere" {
		t.Errorf("%v, %v", said, err)
	}
}

func TestFailuresAreTold(t *testing.T) {
	for _, args := range [][]string{
		{}, {"bogus"}, {"read"}, {"read", "/nothing"}, {"read", "/", "bogus"}, {"write", "/x", "-1", "s"}, {"chmod", "/", "9"}, {"exit", "256"},
	} {
		if said, err := perform(args); err == nil {
			t.Errorf("%v: %v", args, said)
		}
	}
}

func TestEachRequestIsAnsweredBeforeTheNextIsRead(t *testing.T) {
	in, requests := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- serve(in, out) }()
	buffer := make([]byte, 1024)
	for _, step := range [][2]string{
		{`{"id":7,"args":["stat","/nonexistent"]}`, `{"error":"lstat /nonexistent: no such file or directory","id":7,"ok":false}`},
		{`{"id":8,"args":["sleep","0"]}`, `{"id":8,"ok":true}`},
		{`{"id":9,"args":[]}`, `{"error":"no command","id":9,"ok":false}`},
	} {
		io.WriteString(requests, step[0]+"\n")
		n, err := answers.Read(buffer)
		if said := strings.TrimSpace(string(buffer[:n])); err != nil || said != step[1] {
			t.Errorf("%s, %v", said, err)
		}
	}
	requests.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoRequestEndsIt(t *testing.T) {
	if err := serve(strings.NewReader("[1]\n"), io.Discard); err == nil {
		t.Error("it went on")
	}
}
