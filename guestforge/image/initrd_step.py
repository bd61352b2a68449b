"""The step that makes initrd.img."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from guestforge.arch import Arch
from guestforge.core.progress import step
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Use, Used
from guestforge.image.compress import COMPRESSIONS, compression_for, identity
from guestforge.image.cpio import write_initrd
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.project.models import Initrd, Rootfs
from guestforge.rootfs.flavour import initrd_tree
from guestforge.rootfs.parts import Parts

INITRD = "initrd.img"
CONFIG = "config"  # of the kernel's entry
DEFAULT: Final = Initrd(compression=None)


def initrd_step(
    arch: Arch, recipe: Rootfs, parts: Parts, kernel: Step, initrd: Initrd = DEFAULT, *, time: int = 0
) -> Step:
    """Return the step that makes an entry with `initrd.img`: a guest's tree as a cpio archive that its kernel unpacks.

    `time` is in seconds since 1970. The step raises UserError when the kernel does not unpack what `initrd` asks for.
    """

    def inputs(_: Runtime) -> Mapping[str, Any]:
        return {
            "rootfs": recipe.model_dump(mode="json"),
            "compression": initrd.compression,
            "compressions": [identity(name) for name in COMPRESSIONS],
            "time": time,
        }

    def make(out: Path, used: Used, _: Runtime) -> None:
        compression = compression_for(read_dotconfig(used["kernel"].file(CONFIG)), initrd.compression)
        with step(f"packing the initrd for {arch.name}"):
            write_initrd(initrd_tree(recipe, *parts.of(used)), out / INITRD, compression=compression, mtime=time)

    uses = {**parts.uses(), "kernel": Use(kernel, (CONFIG,))}
    return Step("initrd", inputs, make, code=(__name__,), outputs=(INITRD,), arch=arch.name, uses=uses)
