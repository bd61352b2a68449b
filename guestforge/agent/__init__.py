"""The typed ttRPC client of the guest agent's API: what a container runtime would be to a guest."""
