package cmdline

import (
	"log/slog"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func none(string) string { return "" }

func TestAnEmptyLineGivesTheDefaults(t *testing.T) {
	config, remarks := Parse("", none)
	if config != Default() || len(remarks) != 0 {
		t.Errorf("%+v, %v", config, remarks)
	}
}

func TestEveryParameterIsTaken(t *testing.T) {
	config, remarks := Parse(`console=ttyS0 quiet agent.log=debug agent.log_vport=1025 agent.debug_console
		agent.debug_console_vport=1026 agent.server_addr=unix://@name agent.hotplug_timeout=10
		agent.launch_process_timeout=7 agent.container_pipe_size=65536 agent.devmode cgroup_no_v1=all
		systemd.unified_cgroup_hierarchy=1`, none)
	want := Config{
		LogLevel: slog.LevelDebug, LogPort: 1025, DebugConsole: true, DebugConsolePort: 1026, ServerAddr: "unix://@name",
		HotplugTimeout: 10 * time.Second, LaunchTimeout: 7 * time.Second, ContainerPipeSize: 65536, DevMode: true,
		CgroupNoV1: "all", UnifiedCgroups: true,
	}
	if config != want || len(remarks) != 0 {
		t.Errorf("%+v, %v", config, remarks)
	}
}

// A value that can't be read leaves the default, and is told with its parameter.
func TestMalformedValuesKeepTheDefaults(t *testing.T) {
	for _, word := range []string{
		"agent.log=loud", "agent.log_vport=", "agent.log_vport=0", "agent.log_vport=4294967296", "agent.log_vport=-1",
		"agent.debug_console=perhaps", "agent.debug_console_vport=x", "agent.server_addr=tcp://1.2.3.4:5",
		"agent.server_addr=vsock://-1", "agent.server_addr=unix://", "agent.hotplug_timeout=0", "agent.hotplug_timeout=1s",
		"agent.hotplug_timeout=99999999999", "agent.launch_process_timeout=-6", "agent.container_pipe_size=1M",
		"systemd.unified_cgroup_hierarchy=maybe",
	} {
		config, remarks := Parse(word, none)
		name, _, _ := strings.Cut(word, "=")
		if config != Default() || len(remarks) != 1 || remarks[0].Parameter != name {
			t.Errorf("%s: %+v, %v", word, config, remarks)
		}
	}
}

func TestUnknownParametersAreToldIfTheyAreTheAgents(t *testing.T) {
	_, remarks := Parse("foo=bar agent.bogus=1 agent.trace agent.mem_agent_enable=1 agentx.y", none)
	want := []Remark{
		{"agent.bogus", "unknown parameter"}, {"agent.trace", "not supported by this agent"},
		{"agent.mem_agent_enable", "not supported by this agent"},
	}
	if !reflect.DeepEqual(remarks, want) {
		t.Errorf("%v", remarks)
	}
}

func TestTheEnvironmentHasTheLastWord(t *testing.T) {
	environment := map[string]string{"KATA_AGENT_SERVER_ADDR": "unix:///x", "KATA_AGENT_LOG_LEVEL": "error"}
	config, _ := Parse("agent.log=debug agent.server_addr=vsock://-1:99", func(name string) string { return environment[name] })
	if config.ServerAddr != "unix:///x" || config.LogLevel != slog.LevelError {
		t.Errorf("%+v", config)
	}
	environment["KATA_AGENT_LOG_LEVEL"] = "loud"
	config, remarks := Parse("", func(name string) string { return environment[name] })
	if config.LogLevel != slog.LevelInfo || len(remarks) != 1 || remarks[0].Parameter != "KATA_AGENT_LOG_LEVEL" {
		t.Errorf("%+v, %v", config, remarks)
	}
}

func TestQuotesHoldWordsTogether(t *testing.T) {
	got := Split("a=\"b c\"  \"d e\"\tf \"\"\n")
	if want := []string{"a=b c", "d e", "f", ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string]Address{
		"vsock://-1:1024": {CID: math.MaxUint32, Port: 1024}, "vsock://3:5": {CID: 3, Port: 5},
		"unix:///run/x": {Unix: "/run/x"}, "unix://@x": {Unix: "@x"},
	} {
		if got, err := ParseAddress(text); got != want || err != nil {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "vsock://", "vsock://a:1", "vsock://-2:1", "unix://x", "unix:///", "http://x"} {
		if got, err := ParseAddress(text); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`agent.log=debug "agent.server_addr=unix:///x y" agent.log_vport=1`)
	f.Add("\"")
	f.Add("agent.hotplug_timeout=2147483648 =\x00")
	f.Fuzz(func(t *testing.T, line string) {
		config, _ := Parse(line, none)
		if config.HotplugTimeout <= 0 || config.LaunchTimeout <= 0 || config.ContainerPipeSize < 0 {
			t.Errorf("%+v", config)
		}
		if _, err := ParseAddress(config.ServerAddr); err != nil {
			t.Errorf("address %q: %v", config.ServerAddr, err)
		}
	})
}
