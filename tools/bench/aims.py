"""What figures of one architecture are to be: aims.toml, by the figures' names."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from tools.bench.figures import Aim

AIMS: Final = Path(__file__).with_name("aims.toml")


def aim(arch: Arch, figure: str) -> Aim | None:
    """Return what a figure of an architecture is to be, None where nothing is asked of it."""
    limit = limits().get(arch.name, {}).get(figure)
    return None if limit is None else Aim(limit)


@cache
def limits() -> Mapping[str, Mapping[str, float]]:
    """Return the limits of all figures by architecture and name."""
    return tomllib.loads(AIMS.read_text())
