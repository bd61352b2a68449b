"""An OCI image as a directory: found, fetched and verified by skopeo, unpacked once into the store by umoci."""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = ("document", "image")
