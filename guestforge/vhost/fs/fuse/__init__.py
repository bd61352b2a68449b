"""The file server of our virtio-fs device: FUSE in the guest's own binary interface, on a directory of the host."""
