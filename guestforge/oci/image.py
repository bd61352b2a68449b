"""An OCI image as a directory in the store, which a container can have as its root, and what it says of its process."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation
from guestforge.core.runtime import HOST, Runtime
from guestforge.core.store import Store
from guestforge.oci.identity import identify
from guestforge.oci.reference import find_source
from guestforge.oci.step import FACTS, ROOT, image_step
from guestforge.oci.tools import NEEDS
from guestforge.oci.user import User, find_user

__all__ = ["NEEDS", "Image", "User", "find_user", "open_image"]


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its files below `root`, to be read only, and the process that it would have run.

    `digest` is that of its OCI manifest, "sha256:..."; one of Docker's has been converted to that. `args` are its
    entrypoint and command, and may be none.
    """

    root: Path
    digest: str
    args: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    user: User


def open_image(reference: str, arch: Arch, store: Store, runtime: Runtime = HOST) -> Image:
    """Return an image for an architecture, fetched and unpacked where the store does not have it.

    Raises UserError for an image that is not there, is damaged or is not for the architecture, BuildError where the
    network or a disk fails.
    """
    named = identify(find_source(reference), reference, arch, runtime)
    entry = Evaluation(store, runtime).entry(image_step(named, arch, store))
    facts = json.loads(entry.file(FACTS).read_text())
    root = entry.path / ROOT
    try:
        user = find_user(root, facts["user"])
    except UserError as e:
        raise UserError(
            f"the image {reference} would run as a user that can't be found: {e.message}", hint=e.hint
        ) from e
    return Image(root, facts["digest"], tuple(facts["args"]), facts["environment"], facts["cwd"], user)
