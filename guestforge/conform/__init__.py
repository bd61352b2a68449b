"""What file systems promise, tried in a guest on each storage: rootfs/agent/internal/conform has the cases."""
