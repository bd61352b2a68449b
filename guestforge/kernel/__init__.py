"""A kernel: fragments to a request, the request to a .config, the .config verified, and make."""
