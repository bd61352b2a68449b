// The agent of a guest: what a container runtime talks to. As PID 1 it brings the guest up and powers it off.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"guestforge.dev/agent/internal/boot"
	"guestforge.dev/agent/internal/cgroup"
	"guestforge.dev/agent/internal/cmdline"
	"guestforge.dev/agent/internal/console"
	"guestforge.dev/agent/internal/container"
	"guestforge.dev/agent/internal/device"
	"guestforge.dev/agent/internal/guest"
	"guestforge.dev/agent/internal/log"
	"guestforge.dev/agent/internal/network"
	"guestforge.dev/agent/internal/reaper"
	"guestforge.dev/agent/internal/sandbox"
	"guestforge.dev/agent/internal/server"
	"guestforge.dev/agent/internal/storage"
	"guestforge.dev/agent/internal/version"
)

// answered is how long the last answer gets to leave before the guest ends: ttrpc does not tell when it has.
const answered = 50 * time.Millisecond

func main() {
	if !boot.Init() && len(os.Args) > 1 {
		fmt.Println("guestforge agent", version.Version)
		if os.Args[1] != "--version" {
			os.Exit(2)
		}
		return
	}
	log.SetOutput(os.Stdout)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	if boot.Init() {
		if err := boot.Mounts(); err != nil {
			return err
		}
	}
	config, err := configure()
	if err != nil {
		return err
	}
	slog.Info("agent starts", "version", version.Version, "init", boot.Init())
	if boot.Init() {
		boot.Settle(config)
	}
	children := reaper.New(boot.Init())
	destroyed := make(chan struct{}, 1)
	service, err := assemble(config, children, destroyed)
	if err != nil {
		return err
	}
	ends, err := serve(service, config, children)
	if err != nil {
		return err
	}
	err = wait(ends, destroyed, service)
	if err == nil && boot.Init() {
		err = boot.PowerOff()
	}
	return err
}

// configure reads the settings and makes them the log's.
func configure() (cmdline.Config, error) {
	line := ""
	if boot.Init() { // the command line of a host that a service runs on for tests is not meant for it
		text, err := os.ReadFile("/proc/cmdline")
		if err != nil {
			return cmdline.Config{}, err
		}
		line = string(text)
	}
	config, remarks := cmdline.Parse(line, os.Getenv)
	log.SetLevel(config.LogLevel)
	if config.LogPort != 0 {
		listener, err := listenVsock(config.LogPort)
		if err != nil {
			return config, err
		}
		stream := log.NewStream()
		log.SetOutput(stream)
		go stream.Serve(listener)
	}
	for _, remark := range remarks {
		slog.Warn("setting ignored", "parameter", remark.Parameter, "problem", remark.Problem)
	}
	return config, nil
}

// assemble makes the parts and connects them.
func assemble(config cmdline.Config, children *reaper.Reaper, destroyed chan struct{}) (*server.Service, error) {
	watch, err := device.NewWatch()
	if err != nil {
		return nil, err
	}
	cgroups, err := cgroup.Open()
	if err != nil {
		slog.Warn("containers are not limited, and may use every device", "error", err)
	}
	base := sandbox.Base
	storages := &storage.Manager{
		Base:    base,
		Devices: &device.Finder{Sys: "/sys", Dev: "/dev", Watch: watch, Timeout: config.HotplugTimeout},
		Memory:  cgroups,
	}
	launcher := &container.Launcher{
		Reaper: children, Timeout: config.LaunchTimeout, PipeSize: config.ContainerPipeSize,
		Unread: container.Unread, Unasked: container.Unasked,
	}
	containers := &container.Manager{Base: base, Storage: storages, Launcher: launcher, Cgroups: cgroups}
	box := &sandbox.Sandbox{Base: base, ResolvConf: "/etc/resolv.conf", Storage: storages, Containers: containers}
	containers.Spaces = box.Spaces
	return &server.Service{
		Sandbox: box, Containers: containers, SharedDir: filepath.Join(base, "shared", "containers"),
		Hotplug: guest.Hotplug{Devices: "/sys/devices/system"}, Network: network.Network{Timeout: config.HotplugTimeout},
		Destroyed: func() {
			select {
			case destroyed <- struct{}{}:
			default:
			}
		},
	}, nil
}

// serve listens on all that the settings name. What it returns gets an error when the server can't go on.
func serve(service *server.Service, config cmdline.Config, children *reaper.Reaper) (<-chan error, error) {
	if err := debugConsole(config, children); err != nil {
		return nil, err
	}
	rpc, err := service.New()
	if err != nil {
		return nil, err
	}
	listener, err := listen(config.ServerAddr)
	if err != nil {
		return nil, err
	}
	ends := make(chan error, 1)
	go func() { ends <- rpc.Serve(context.Background(), listener) }()
	slog.Info("agent ready", "address", config.ServerAddr)
	return ends, nil
}

func debugConsole(config cmdline.Config, children *reaper.Reaper) error {
	switch {
	case !config.DebugConsole:
		return nil
	case config.DebugConsolePort == 0:
		go console.OnConsole(children)
		return nil
	}
	listener, err := listenVsock(config.DebugConsolePort)
	if err != nil {
		return err
	}
	go console.Serve(listener, children)
	return nil
}

// wait returns when the guest is to end: nil when somebody wanted that.
func wait(ends <-chan error, destroyed <-chan struct{}, service *server.Service) error {
	signals := make(chan os.Signal, 1)
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR)
	select {
	case err := <-ends:
		if errors.Is(err, ttrpc.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("the server ended: %w", err)
	case <-destroyed:
		time.Sleep(answered)
	case which := <-signals:
		slog.Info("signal", "signal", which.String())
		if err := service.Sandbox.Destroy(); err != nil {
			slog.Error("sandbox not destroyed", "error", err)
		}
	}
	return nil
}
