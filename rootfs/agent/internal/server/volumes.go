package server

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
)

func (s *Service) updateEphemeralMounts(_ context.Context, r *api.UpdateEphemeralMountsRequest) (*emptypb.Empty, error) {
	return nothing(s.Sandbox.Storage.Update(r.Storages))
}

func (s *Service) resizeVolume(_ context.Context, r *api.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return nothing(s.Sandbox.Storage.Resize(r.VolumeGuestPath, r.Size))
}
