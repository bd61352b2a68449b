package server

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/guest"
)

func (s *Service) updateEphemeralMounts(_ context.Context, r *api.UpdateEphemeralMountsRequest) (*emptypb.Empty, error) {
	return nothing(s.Sandbox.Storage.Update(r.Storages))
}

func (s *Service) resizeVolume(_ context.Context, r *api.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return nothing(s.Sandbox.Storage.Resize(r.VolumeGuestPath, r.Size))
}

func (s *Service) addSwap(ctx context.Context, r *api.AddSwapRequest) (*emptypb.Empty, error) {
	return nothing(guest.SwapPCI(ctx, s.Sandbox.Storage.Devices, r.PCIPath))
}

func (s *Service) addSwapPath(ctx context.Context, r *api.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nothing(guest.SwapNode(ctx, s.Sandbox.Storage.Devices, r.Path))
}

func (s *Service) removeStaleShareMounts(ctx context.Context, _ *api.RemoveStaleVirtiofsShareMountsRequest) (*emptypb.Empty, error) {
	return nothing(s.Sandbox.Storage.LookAtMounts(ctx, s.SharedDir))
}
