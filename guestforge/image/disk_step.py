"""The step that makes rootfs.img."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guestforge.arch import Arch
from guestforge.core.progress import step
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Used
from guestforge.image.disk import build_disk
from guestforge.image.ext4 import NEEDS, e2fsprogs_version
from guestforge.project.models import Image, Rootfs
from guestforge.rootfs.flavour import disk_tree
from guestforge.rootfs.parts import Parts

IMAGE = "rootfs.img"


def image_step(arch: Arch, recipe: Rootfs, parts: Parts, spec: Image, *, time: int = 0) -> Step:
    """Return the step that makes an entry with `rootfs.img`: a sparse raw disk with a guest's tree as its partition.

    `time` is in seconds since 1970. The step raises UserError when the recipe's size is too small.
    """

    def inputs(runtime: Runtime) -> Mapping[str, Any]:
        return {
            "rootfs": recipe.model_dump(mode="json"),
            "size_mib": spec.size_mib,
            "time": time,
            "e2fsprogs": e2fsprogs_version(runtime),
        }

    def make(out: Path, used: Used, runtime: Runtime) -> None:
        with step(f"writing the disk image for {arch.name}"):
            tree = disk_tree(recipe, *parts.of(used))
            build_disk(tree, out / IMAGE, runtime, size_mib=spec.size_mib, time=time)

    return Step("image", inputs, make, (__name__,), outputs=(IMAGE,), arch=arch.name, uses=parts.uses(), needs=NEEDS)
