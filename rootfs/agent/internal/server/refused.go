package server

import (
	"context"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
)

// refused has the methods that are known here and not served, each with its reason: a rule or a policy that somebody relies
// on must not be taken and not kept.
func refused() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"GetIPTables": refuse[api.GetIPTablesRequest, api.GetIPTablesResponse]("GetIPTables", noIPTables),
		"SetIPTables": refuse[api.SetIPTablesRequest, api.SetIPTablesResponse]("SetIPTables", noIPTables),
		"SetPolicy": refuse[api.SetPolicyRequest, emptypb.Empty]("SetPolicy",
			"a policy: this agent has no policy engine, and every call is allowed"),
		"MemAgentMemcgSet":   refuse[api.MemAgentMemcgConfig, emptypb.Empty]("MemAgentMemcgSet", noMemoryAgent),
		"MemAgentCompactSet": refuse[api.MemAgentCompactConfig, emptypb.Empty]("MemAgentCompactSet", noMemoryAgent),
		"GetDiagnosticData": refuse[api.GetDiagnosticDataRequest, api.GetDiagnosticDataResponse]("GetDiagnosticData",
			"diagnostic data: a container's termination log is a file that the host finds on its share"),
	}
}

const (
	noIPTables    = "iptables: this guest's root file system has none"
	noMemoryAgent = "the memory agent: nothing here reclaims or compacts memory but the kernel"
)

func refuse[Q, A any, PQ message[Q], PA message[A]](name, reason string) ttrpc.Method {
	return answering(name, func(context.Context, PQ) (PA, error) { return nil, fault.Unimplemented("%s", reason) })
}
