package shim

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"guestforge.dev/agent/internal/api"
)

func shellHook(text string) *api.Hook {
	return &api.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: []string{"PATH=/usr/bin:/bin"}, Timeout: 20}
}

func TestAHookReadsTheContainersState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	spec := &api.Spec{
		Version: "1.0.2", Root: &api.Root{Path: "/run/kata-containers/one/rootfs"}, Annotations: map[string]string{"a": "b"},
		Hooks: &api.Hooks{StartContainer: []*api.Hook{shellHook("cat > " + path), shellHook("env >> " + path)}},
	}
	if err := startHooks(spec); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		OCIVersion, ID, Status, Bundle string
		PID                            int
		Annotations                    map[string]string
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	if err := decoder.Decode(&state); err != nil {
		t.Fatal(err)
	}
	said := []string{state.OCIVersion, state.ID, state.Status, state.Bundle, state.Annotations["a"]}
	if got := strings.Join(said, " "); got != "1.0.2 one created /run/kata-containers/one b" || state.PID != os.Getpid() {
		t.Errorf("state %s", text)
	}
	if variables := string(text[decoder.InputOffset():]); !strings.Contains(variables, "PATH=/usr/bin:/bin\n") || strings.Contains(variables, "HOME=") {
		t.Errorf("variables %s", variables)
	}
}

func TestAHookThatFailsSaysWhy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "late")
	for text, words := range map[string]string{"echo no luck >&2; exit 3": "no luck", "kill -9 $$": "status 0x9"} {
		hooks := []*api.Hook{shellHook(text), shellHook("touch " + path)}
		spec := &api.Spec{Root: &api.Root{Path: "/b/rootfs"}, Hooks: &api.Hooks{StartContainer: hooks}}
		if err := startHooks(spec); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the next one ran")
	}
	if err := runHook(&api.Hook{Path: "/nowhere"}, nil); err == nil {
		t.Error("what is not there ran")
	}
}

func TestAHookHasALimit(t *testing.T) {
	hook, begun := shellHook("sleep 20"), time.Now()
	hook.Timeout = 1
	if err := runHook(hook, nil); err == nil || !strings.Contains(err.Error(), "after 1s") {
		t.Error(err)
	}
	if took := time.Since(begun); took < 900*time.Millisecond || took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestHooksThatCannotBeRun(t *testing.T) {
	if err := CheckHooks([]*api.Hook{shellHook("x")}); err != nil {
		t.Error(err)
	}
	for _, hook := range []*api.Hook{
		{}, {Path: "sh"}, {Path: "/sh", Timeout: -1}, {Path: "/sh", Timeout: 1 << 40}, {Path: "/s\x00h"},
		{Path: "/sh", Args: []string{"\x00"}}, {Path: "/sh", Env: []string{"a=\x00"}},
	} {
		if CheckHooks([]*api.Hook{hook}) == nil {
			t.Errorf("%v can be run", hook)
		}
	}
	if CheckHooks(make([]*api.Hook, maxHooks+1)) == nil {
		t.Error("any number of hooks can be run")
	}
}
