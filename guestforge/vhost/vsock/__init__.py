"""The vsock device: guests' ports as Unix sockets of the host."""
