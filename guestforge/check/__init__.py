"""The named checks of a guest that runs, and their report."""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = (
    "artifacts",
    "engine",
    "fixtures",
    "guest",
    "live",
    "report",
    "stage",
    "step",
    "storages",
    "table",
)
