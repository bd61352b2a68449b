"""The ttRPC client and the agent's API, as a container runtime would have them."""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = (
    "attached",
    "client",
    "container",
    "dialogue",
    "errors",
    "metrics",
    "ready",
    "spec",
    "storage",
    "tasks",
    "transport",
)
