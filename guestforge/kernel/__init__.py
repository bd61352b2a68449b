"""Fragments to a `.config`, verified; and the kernel made of it."""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = ("configure", "dotconfig", "fragment", "make", "packing", "step", "toolchain")
