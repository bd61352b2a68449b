"""The virtio-fs device, and the file server behind it."""
