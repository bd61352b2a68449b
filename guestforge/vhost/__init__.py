"""Our own vhost-user devices: `core` and the wings on it, `vsock` and `fs`, which know nothing of each other."""
