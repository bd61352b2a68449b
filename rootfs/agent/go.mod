module guestforge.dev/agent

go 1.26.0

tool google.golang.org/protobuf/cmd/protoc-gen-go

require (
	github.com/containerd/ttrpc v1.2.10
	github.com/jsimonetti/rtnetlink v1.4.2
	github.com/mdlayher/netlink v1.7.2
	github.com/mdlayher/vsock v1.4.0
	github.com/opencontainers/cgroups v0.1.0
	github.com/sirupsen/logrus v1.9.4
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
	google.golang.org/grpc v1.81.1
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/cilium/ebpf v0.17.3 // indirect
	github.com/containerd/log v0.1.0 // indirect
	github.com/coreos/go-systemd/v22 v22.6.0 // indirect
	github.com/cyphar/filepath-securejoin v0.4.1 // indirect
	github.com/godbus/dbus/v5 v5.1.0 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/josharian/native v1.1.0 // indirect
	github.com/mdlayher/socket v0.8.0 // indirect
	github.com/moby/sys/mountinfo v0.7.2 // indirect
	github.com/moby/sys/userns v0.1.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260226221140-a57be14db171 // indirect
)
