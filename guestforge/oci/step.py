"""The step that makes an image: copied into a layout of its own, verified, and unpacked."""

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.core.exposure import is_real_root
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Used
from guestforge.core.store import Store
from guestforge.oci.archive import provide
from guestforge.oci.config import parse_config, require_architecture
from guestforge.oci.identity import Identified, stamp_of
from guestforge.oci.layout import IMAGE, isolate, read_image
from guestforge.oci.tools import NEEDS, Wanted, copy, unpack, version

STEP: Final = "oci"
ROOT: Final = "rootfs"
FACTS: Final = "image.json"
DIGEST_OR_TAG: Final = re.compile(r"@.*|:[^/]*$")  # at the end of a registry's reference


def image_step(named: Identified, arch: Arch, store: Store) -> Step:
    """Return the step that makes an entry with an image's files and what it says of itself."""

    def inputs(runtime: Runtime) -> Mapping[str, Any]:
        return {
            "image": [named.source.kind, named.digest, named.tag],
            "platform": ["linux", arch.go, arch.oci_variant],
            "owners": "any" if is_real_root() else "ours",
            **{need.tool: version(need.tool, runtime) for need in NEEDS},
        }

    def make(out: Path, _used: Used, runtime: Runtime) -> None:
        with store.temporary(STEP) as place:
            layout = place / "layout"
            copy(Wanted(_address(named, arch, place), named.title, arch), layout, runtime)
            _require_unchanged(named)
            digest, document = read_image(layout)
            require_architecture(document, arch)
            config = parse_config(document)
            unpack(layout, out / ROOT, named.title, runtime)
        _require_root(out / ROOT, named.title)
        out.chmod(0o700)  # there are set-user-ID programs in it, and other users' files
        if not is_real_root():
            open_to_us(out / ROOT)
        (out / FACTS).write_text(json.dumps({"digest": digest, **asdict(config)}))

    return Step(STEP, inputs, make, (__name__,), (FACTS,), arch.name, needs=NEEDS, weight="network")


def open_to_us(root: Path) -> None:
    """Let us read all files, and enter all directories, whatever the image says.

    The server that a guest has them from is who we are, and is not root there: for a guest's root there is no file of
    mode 0000.
    """
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o400 if stat.S_ISREG(status.st_mode) else 0
            if wanted & ~status.st_mode:
                path.chmod(stat.S_IMODE(status.st_mode) | wanted)  # before the walk gets there


def _address(named: Identified, arch: Arch, place: Path) -> str:
    """Return what skopeo is to copy: what was identified, at a path without the colons that it would split at."""
    source, there = named.source, place / "source"
    if source.kind == "docker":
        return f"docker://{DIGEST_OR_TAG.sub('', source.name)}@{named.digest}"
    if source.kind == "layout":
        isolate(source.path, named.descriptor, arch, there)
        return f"oci:{there}:{IMAGE}"
    provide(source.path, there)
    return f"{source.kind}:{there}{f':{named.tag}' if named.tag else ''}"


def _require_root(root: Path, title: str) -> None:
    """Raise UserError unless an image was left with a directory: umoci has whiteouts of `.` and `..` take it away."""
    if root.is_symlink() or not root.is_dir():
        raise UserError(f"the image {title} is malformed: a layer removes its root directory")


def _require_unchanged(named: Identified) -> None:
    if named.stamp and stamp_of(named.source.path) != named.stamp:
        raise UserError(f"{named.source.path} was changed while it was read", hint="try again")
