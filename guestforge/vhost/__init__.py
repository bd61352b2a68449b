"""Our own vhost-user devices: a back end core that they share, and the vsock device on it."""
