// Package version holds what the build says this agent is.
package version

// Version is set by the linker (-X guestforge.dev/agent/internal/version.Version=...).
var Version = "0.0.0-dev"

// API is the version of the interface, as grpc.Health/Version reports it.
const API = "0.0.1"
