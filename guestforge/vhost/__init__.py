"""Our own vhost-user devices: programs of their own, which nobody imports."""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = ()
