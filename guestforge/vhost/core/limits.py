"""How many descriptors a device program may have open."""

import resource


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the soft limit to `wanted`, or as near as we may; return what it is. The usual one is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))  # root may
        except (ValueError, OSError):  # above fs.nr_open, or no right to
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return wanted
