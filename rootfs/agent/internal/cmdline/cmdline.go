// Package cmdline reads the agent's settings from the kernel's command line and from the environment.
package cmdline

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"guestforge.dev/agent/internal/log"
)

// Config is what the agent was told. Ports are those of AF_VSOCK; 0 is none.
type Config struct {
	LogLevel          slog.Level
	LogPort           uint32
	DebugConsole      bool
	DebugConsolePort  uint32
	ServerAddr        string
	HotplugTimeout    time.Duration
	LaunchTimeout     time.Duration
	ContainerPipeSize int // bytes; 0 leaves the kernel's default
	DevMode           bool
	CgroupNoV1        string
	UnifiedCgroups    bool
}

// Default returns the settings of an empty command line.
func Default() Config {
	return Config{
		LogLevel:       slog.LevelInfo,
		ServerAddr:     "vsock://-1:1024",
		HotplugTimeout: 3 * time.Second,
		LaunchTimeout:  6 * time.Second,
	}
}

// Remark is something that the agent could not make use of; it is for the log, and never fatal.
type Remark struct{ Parameter, Problem string }

// A setting takes the value of one parameter. It leaves the config as it is where it returns an error.
type setting func(c *Config, value string) error

var settings = map[string]setting{
	"agent.log":                        func(c *Config, v string) error { return set(&c.LogLevel, v, log.ParseLevel) },
	"agent.log_vport":                  func(c *Config, v string) error { return set(&c.LogPort, v, parsePort) },
	"agent.debug_console":              func(c *Config, v string) error { return set(&c.DebugConsole, v, parseSwitch) },
	"agent.debug_console_vport":        func(c *Config, v string) error { return set(&c.DebugConsolePort, v, parsePort) },
	"agent.devmode":                    func(c *Config, v string) error { return set(&c.DevMode, v, parseSwitch) },
	"agent.server_addr":                func(c *Config, v string) error { return set(&c.ServerAddr, v, parseAddr) },
	"agent.hotplug_timeout":            func(c *Config, v string) error { return set(&c.HotplugTimeout, v, parseSeconds) },
	"agent.launch_process_timeout":     func(c *Config, v string) error { return set(&c.LaunchTimeout, v, parseSeconds) },
	"agent.container_pipe_size":        func(c *Config, v string) error { return set(&c.ContainerPipeSize, v, parseSize) },
	"cgroup_no_v1":                     func(c *Config, v string) error { c.CgroupNoV1 = v; return nil },
	"systemd.unified_cgroup_hierarchy": func(c *Config, v string) error { return set(&c.UnifiedCgroups, v, parseSwitch) },
}

// What other agents of this interface know and this one has no use for.
var unsupported = map[string]bool{
	"agent.trace": true, "agent.passfd_listener_port": true, "agent.cdh_api_timeout": true,
	"agent.image_pull_timeout": true, "agent.cdi_timeout": true, "agent.visible_cdi_devices": true,
	"agent.config_file": true, "agent.guest_components_rest_api": true, "agent.guest_components_procs": true,
	"agent.secure_storage_integrity": true, "agent.https_proxy": true, "agent.no_proxy": true,
}

// Parse returns the settings of a kernel command line, over which the environment (KATA_AGENT_...) has the last word.
func Parse(line string, getenv func(string) string) (Config, []Remark) {
	config, remarks := Default(), []Remark(nil)
	for _, word := range Split(line) {
		name, value, _ := strings.Cut(word, "=")
		if problem := apply(&config, name, value); problem != "" {
			remarks = append(remarks, Remark{name, problem})
		}
	}
	for variable, name := range map[string]string{
		"KATA_AGENT_SERVER_ADDR": "agent.server_addr",
		"KATA_AGENT_LOG_LEVEL":   "agent.log",
	} {
		if value := getenv(variable); value != "" {
			if err := settings[name](&config, value); err != nil {
				remarks = append(remarks, Remark{variable, err.Error()})
			}
		}
	}
	return config, remarks
}

func apply(config *Config, name, value string) string {
	if take, known := settings[name]; known {
		if err := take(config, value); err != nil {
			return err.Error()
		}
		return ""
	}
	switch {
	case unsupported[name] || strings.HasPrefix(name, "agent.mem_agent_"):
		return "not supported by this agent"
	case strings.HasPrefix(name, "agent."):
		return "unknown parameter"
	}
	return ""
}

// Split cuts a command line as the kernel does: at white space, except within double quotes, which are dropped
// (lib/cmdline.c, next_arg).
func Split(line string) []string {
	var words []string
	var word strings.Builder
	quoted, begun := false, false
	for i := range len(line) {
		switch c := line[i]; {
		case c == '"':
			quoted, begun = !quoted, true
		case !quoted && strings.IndexByte(" \t\n\v\f\r\xa0", c) >= 0:
			if begun {
				words = append(words, word.String())
				word.Reset()
			}
			begun = false
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words
}

func set[T any](field *T, value string, parse func(string) (T, error)) error {
	parsed, err := parse(value)
	if err == nil {
		*field = parsed
	}
	return err
}

func parseSwitch(value string) (bool, error) {
	switch value {
	case "", "1", "true", "on", "yes":
		return true, nil
	case "0", "false", "off", "no":
		return false, nil
	}
	return false, fmt.Errorf("neither true nor false: %q", value)
}

func parsePort(value string) (uint32, error) {
	port, err := strconv.ParseUint(value, 10, 32)
	if err != nil || port == 0 || port == math.MaxUint32 {
		return 0, fmt.Errorf("not a vsock port: %q", value)
	}
	return uint32(port), nil
}

func parseSeconds(value string) (time.Duration, error) {
	seconds, err := strconv.ParseUint(value, 10, 31)
	if err != nil || seconds == 0 {
		return 0, fmt.Errorf("not a number of seconds: %q", value)
	}
	return time.Duration(seconds) * time.Second, nil
}

func parseSize(value string) (int, error) {
	size, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("not a number of bytes: %q", value)
	}
	return int(size), nil
}

func parseAddr(value string) (string, error) {
	_, err := ParseAddress(value)
	return value, err
}
