package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// What Go says of each package with GODEBUG=inittrace=1
var initialised = regexp.MustCompile(`(?m)^init (guestforge\.dev/agent/internal/\S+) @.* (\d+) allocs$`)

// Each process of a container is a start of this program, so nothing is prepared that a shim may not need: messages are
// registered, errors are made, tables are filled. A regular expression takes hundreds of allocations.
func TestNoPackagePreparesMuchAtTheStart(t *testing.T) {
	const few = 100
	start := exec.Command(os.Args[0], "-test.run=^$")
	start.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	said, err := start.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	found := initialised.FindAllSubmatch(said, -1)
	if len(found) < 10 {
		t.Fatalf("only %d packages of ours: %s", len(found), said)
	}
	for _, each := range found {
		if allocations, _ := strconv.Atoi(string(each[2])); allocations > few {
			t.Errorf("%s makes %d allocations before anything is asked of it", each[1], allocations)
		}
	}
}
