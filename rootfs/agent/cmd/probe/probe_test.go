package main

import (
	"errors"
	"os"
	"path/filepath"
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
