package main

import (
	"os"
	"testing"
)

func TestEachPieceOfWorkIsTimedAndNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	seconds, err := measure(dir)
	if err != nil || len(seconds) != 4 {
		t.Fatal(seconds, err)
	}
	for name, value := range seconds {
		if value <= 0 {
			t.Error(name, value)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Error(left)
	}
}

func TestWhatIsReadIsCompared(t *testing.T) {
	path := t.TempDir() + "/large"
	if err := os.WriteFile(path, make([]byte, blocks*large), 0o600); err != nil {
		t.Fatal(err)
	}
	if uncached(path, readAll) == nil || uncached(path, readRandomly) == nil {
		t.Error("wrong content was taken for right")
	}
}
