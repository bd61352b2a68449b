"""Where this checkout is, and what lies in it beside the library."""

from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
RECIPES: Final = CHECKOUT / "recipes"
FRAGMENTS: Final = CHECKOUT / "kernel-configs"
OVERLAYS: Final = CHECKOUT / "overlays"  # none of ours so far: a project has its own
AGENT_SOURCES: Final = CHECKOUT / "rootfs" / "agent"
OUTPUT: Final = CHECKOUT / "output"
INVOKE: Final = CHECKOUT / "invoke"
