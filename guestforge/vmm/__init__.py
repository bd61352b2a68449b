"""A plan of a machine to QEMU's arguments; the running machine, its console and its devices."""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = (
    "accel",
    "argv",
    "emulator",
    "errors",
    "interactive",
    "machine",
    "needs",
    "plan",
    "terminal",
    "user",
    "virtiofs",
    "virtiofsd",
    "vsock",
)
