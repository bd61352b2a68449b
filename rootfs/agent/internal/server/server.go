package server

import (
	"context"
	"errors"
	"maps"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/api/types"
	"guestforge.dev/agent/internal/container"
	"guestforge.dev/agent/internal/copyfile"
	"guestforge.dev/agent/internal/guest"
	"guestforge.dev/agent/internal/metrics"
	"guestforge.dev/agent/internal/network"
	"guestforge.dev/agent/internal/sandbox"
	"guestforge.dev/agent/internal/version"
)

// Names of the services on the wire.
const (
	AgentService  = "grpc.AgentService"
	HealthService = "grpc.Health"
)

// Service is what answers. Destroyed is called once the sandbox has been destroyed.
type Service struct {
	Sandbox    *sandbox.Sandbox
	Containers *container.Manager
	SharedDir  string // below which CopyFile writes
	Hotplug    guest.Hotplug
	Network    network.Network
	Destroyed  func()
}

// New returns a ttRPC server of both services. It answers UNIMPLEMENTED for each method without an entry.
func (s *Service) New() (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	server.Register(HealthService, s.health())
	server.Register(AgentService, s.agent())
	return server, nil
}

func (s *Service) health() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"Check":   unary("Check", s.check),
		"Version": unary("Version", s.version),
	}
}

func (s *Service) agent() map[string]ttrpc.Method {
	methods := map[string]ttrpc.Method{
		"GetGuestDetails":   unary("GetGuestDetails", s.guestDetails),
		"GetMetrics":        unary("GetMetrics", s.getMetrics),
		"SetGuestDateTime":  unary("SetGuestDateTime", s.setGuestDateTime),
		"ReseedRandomDev":   unary("ReseedRandomDev", s.reseedRandomDev),
		"GetVolumeStats":    unary("GetVolumeStats", s.getVolumeStats),
		"CopyFile":          unary("CopyFile", s.copyFile),
		"CreateSandbox":     unary("CreateSandbox", s.createSandbox),
		"DestroySandbox":    unary("DestroySandbox", s.destroySandbox),
		"CreateContainer":   unary("CreateContainer", s.createContainer),
		"StartContainer":    unary("StartContainer", s.startContainer),
		"RemoveContainer":   unary("RemoveContainer", s.removeContainer),
		"ExecProcess":       unary("ExecProcess", s.execProcess),
		"WaitProcess":       unary("WaitProcess", s.waitProcess),
		"SignalProcess":     unary("SignalProcess", s.signalProcess),
		"ReadStdout":        unary("ReadStdout", s.readStdout),
		"ReadStderr":        unary("ReadStderr", s.readStderr),
		"WriteStdin":        unary("WriteStdin", s.writeStdin),
		"CloseStdin":        unary("CloseStdin", s.closeStdin),
		"TtyWinResize":      unary("TtyWinResize", s.ttyWinResize),
		"UpdateContainer":   unary("UpdateContainer", s.updateContainer),
		"StatsContainer":    unary("StatsContainer", s.statsContainer),
		"PauseContainer":    unary("PauseContainer", s.pauseContainer),
		"ResumeContainer":   unary("ResumeContainer", s.resumeContainer),
		"GetOOMEvent":       unary("GetOOMEvent", s.getOOMEvent),
		"OnlineCPUMem":      unary("OnlineCPUMem", s.onlineCPUMem),
		"ListInterfaces":    unary("ListInterfaces", s.listInterfaces),
		"UpdateInterface":   unary("UpdateInterface", s.updateInterface),
		"ListRoutes":        unary("ListRoutes", s.listRoutes),
		"UpdateRoutes":      unary("UpdateRoutes", s.updateRoutes),
		"AddARPNeighbors":   unary("AddARPNeighbors", s.addARPNeighbors),
		"MemHotplugByProbe": unary("MemHotplugByProbe", s.memHotplugByProbe),

		"UpdateEphemeralMounts": unary("UpdateEphemeralMounts", s.updateEphemeralMounts),
		"ResizeVolume":          unary("ResizeVolume", s.resizeVolume),
		"AddSwap":               unary("AddSwap", s.addSwap),
		"AddSwapPath":           unary("AddSwapPath", s.addSwapPath),

		"RemoveStaleVirtiofsShareMounts": unary("RemoveStaleVirtiofsShareMounts", s.removeStaleShareMounts),
	}
	maps.Copy(methods, refused())
	return methods
}

func (s *Service) check(context.Context, *api.CheckRequest) (*api.HealthCheckResponse, error) {
	return &api.HealthCheckResponse{Status: api.HealthCheckResponse_SERVING}, nil
}

func (s *Service) version(context.Context, *api.CheckRequest) (*api.VersionCheckResponse, error) {
	return &api.VersionCheckResponse{GrpcVersion: version.API, AgentVersion: version.Version}, nil
}

func (s *Service) guestDetails(_ context.Context, r *api.GuestDetailsRequest) (*api.GuestDetailsResponse, error) {
	return guest.Details(s.Hotplug, r)
}

func (s *Service) getMetrics(context.Context, *api.GetMetricsRequest) (*api.Metrics, error) {
	return &api.Metrics{Metrics: metrics.Collect()}, nil
}

func (s *Service) setGuestDateTime(_ context.Context, r *api.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	return nothing(guest.SetTime(r.Sec, r.Usec))
}

func (s *Service) reseedRandomDev(_ context.Context, r *api.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	return nothing(guest.Reseed(r.Data))
}

func (s *Service) getVolumeStats(_ context.Context, r *api.VolumeStatsRequest) (*api.VolumeStatsResponse, error) {
	return guest.VolumeStats(s.Sandbox.Base, r.VolumeGuestPath)
}

func (s *Service) copyFile(_ context.Context, r *api.CopyFileRequest) (*emptypb.Empty, error) {
	return nothing(copyfile.Write(s.SharedDir, r))
}

func (s *Service) createSandbox(ctx context.Context, r *api.CreateSandboxRequest) (*emptypb.Empty, error) {
	return nothing(s.Sandbox.Create(ctx, r))
}

func (s *Service) destroySandbox(context.Context, *api.DestroySandboxRequest) (*emptypb.Empty, error) {
	err := s.Sandbox.Destroy()
	s.Destroyed()
	return nothing(err)
}

func (s *Service) createContainer(ctx context.Context, r *api.CreateContainerRequest) (*emptypb.Empty, error) {
	if err := s.Sandbox.Running(); err != nil {
		return nil, err
	}
	return nothing(s.Containers.Create(ctx, r))
}

func (s *Service) startContainer(_ context.Context, r *api.StartContainerRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Start(r.ContainerId))
}

func (s *Service) removeContainer(ctx context.Context, r *api.RemoveContainerRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Remove(ctx, r.ContainerId, r.Timeout))
}

func (s *Service) execProcess(_ context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Exec(r))
}

func (s *Service) waitProcess(ctx context.Context, r *api.WaitProcessRequest) (*api.WaitProcessResponse, error) {
	code, err := s.Containers.Wait(ctx, r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	return &api.WaitProcessResponse{Status: int32(code)}, nil
}

func (s *Service) signalProcess(_ context.Context, r *api.SignalProcessRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Signal(r.ContainerId, r.ExecId, r.Signal))
}

func (s *Service) readStdout(ctx context.Context, r *api.ReadStreamRequest) (*api.ReadStreamResponse, error) {
	data, err := s.Containers.Stdout(ctx, r)
	return &api.ReadStreamResponse{Data: data}, err
}

func (s *Service) readStderr(ctx context.Context, r *api.ReadStreamRequest) (*api.ReadStreamResponse, error) {
	data, err := s.Containers.Stderr(ctx, r)
	return &api.ReadStreamResponse{Data: data}, err
}

func (s *Service) writeStdin(ctx context.Context, r *api.WriteStreamRequest) (*api.WriteStreamResponse, error) {
	n, err := s.Containers.WriteStdin(ctx, r)
	return &api.WriteStreamResponse{Len: uint32(n)}, err
}

func (s *Service) closeStdin(_ context.Context, r *api.CloseStdinRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.CloseStdin(r.ContainerId, r.ExecId))
}

func (s *Service) ttyWinResize(_ context.Context, r *api.TtyWinResizeRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Resize(r.ContainerId, r.ExecId, r.Row, r.Column))
}

func (s *Service) updateContainer(_ context.Context, r *api.UpdateContainerRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Update(r.ContainerId, r.Resources))
}

func (s *Service) statsContainer(_ context.Context, r *api.StatsContainerRequest) (*api.StatsContainerResponse, error) {
	return s.Containers.Stats(r.ContainerId)
}

func (s *Service) pauseContainer(_ context.Context, r *api.PauseContainerRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Pause(r.ContainerId, true))
}

func (s *Service) resumeContainer(_ context.Context, r *api.ResumeContainerRequest) (*emptypb.Empty, error) {
	return nothing(s.Containers.Pause(r.ContainerId, false))
}

func (s *Service) getOOMEvent(ctx context.Context, _ *api.GetOOMEventRequest) (*api.OOMEvent, error) {
	id, err := s.Containers.OOMEvent(ctx)
	return &api.OOMEvent{ContainerId: id}, err
}

func (s *Service) onlineCPUMem(ctx context.Context, r *api.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	added, err := s.Hotplug.Online(ctx, r)
	return nothing(errors.Join(err, s.Containers.Cgroups.Grow(added)))
}

func (s *Service) memHotplugByProbe(_ context.Context, r *api.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	return nothing(s.Hotplug.Probe(r.MemHotplugProbeAddr))
}

func (s *Service) listInterfaces(context.Context, *api.ListInterfacesRequest) (*api.Interfaces, error) {
	found, err := s.Network.Interfaces()
	return &api.Interfaces{Interfaces: found}, err
}

func (s *Service) updateInterface(ctx context.Context, r *api.UpdateInterfaceRequest) (*types.Interface, error) {
	return s.Network.Update(ctx, r.Interface)
}

func (s *Service) listRoutes(context.Context, *api.ListRoutesRequest) (*api.Routes, error) {
	found, err := s.Network.Routes()
	return &api.Routes{Routes: found}, err
}

func (s *Service) updateRoutes(_ context.Context, r *api.UpdateRoutesRequest) (*api.Routes, error) {
	found, err := s.Network.SetRoutes(r.Routes.GetRoutes())
	return &api.Routes{Routes: found}, err
}

func (s *Service) addARPNeighbors(_ context.Context, r *api.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	return nothing(s.Network.AddNeighbours(r.Neighbors.GetARPNeighbors()))
}

func nothing(err error) (*emptypb.Empty, error) { return &emptypb.Empty{}, err }
