"""What figures were measured on and with."""

from datetime import UTC, datetime

from guestforge.arch import Arch
from guestforge.core.run import find_tool, run
from guestforge.overhead.host import load, this_host

Facts = tuple[tuple[str, str], ...]


def now() -> str:
    """Return the date and time for a section."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def host_facts() -> Facts:
    """Return what the machine is, and how busy it was before the measurement."""
    host = this_host()
    return (
        ("processors", f"{host.processors} ({host.model})"),
        ("memory", f"{host.memory_mib / 1024:.1f} GiB"),
        ("host kernel", host.kernel),
        ("load in the minute before", f"{load():.1f}"),
    )


def tool_version(name: str) -> str:
    """Return the first line of what a program says of its version."""
    return run([name, "--version"]).output.partition("\n")[0] if find_tool(name) else "not installed"


def compiler(arch: Arch) -> str:
    """Return the version of an architecture's compiler."""
    return tool_version(f"{arch.cross_prefix}gcc")
