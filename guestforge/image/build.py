"""The steps of the build that make initrd.img and rootfs.img."""

from collections.abc import Mapping
from pathlib import Path

from guestforge.arch import Arch
from guestforge.files import digest_tree
from guestforge.image import cpio, debugfs, disk, ext4
from guestforge.image.compress import identity
from guestforge.progress import step
from guestforge.recipe.models import Image
from guestforge.rootfs import tree as tree_module
from guestforge.rootfs.tree import Tree
from guestforge.run import run
from guestforge.store import Entry, Store

INITRD = "initrd.img"
IMAGE = "rootfs.img"


def build_initrd(store: Store, arch: Arch, tree: Tree, config: Mapping[str, str], *, time: int = 0) -> Entry:
    """Return the entry with `initrd.img`: a tree as a compressed cpio archive that the kernel of `config` unpacks.

    `config` maps option names (with CONFIG_) to values; `time` is in seconds since 1970. Raises UserError when the
    kernel unpacks no initrd that we write.
    """
    compression = cpio.compression_for(config)
    inputs = {
        "arch": arch.name,
        "tree": tree.digest(),
        "compression": identity(compression),
        "time": time,
        "code": _code(cpio.__file__, tree_module.__file__),
    }

    def build(out: Path) -> None:
        with step(f"packing the initrd for {arch.name}"):
            cpio.write_initrd(tree, out / INITRD, compression=compression, mtime=time)

    return store.get_or_build("initrd", inputs, build)


def build_image(store: Store, arch: Arch, tree: Tree, spec: Image, *, time: int = 0) -> Entry:
    """Return the entry with `rootfs.img`: a sparse raw disk with a tree as its root partition.

    `time` is in seconds since 1970. Raises UserError when the recipe's size is too small.
    """
    inputs = {
        "arch": arch.name,
        "tree": tree.digest(),
        "size_mib": spec.size_mib,
        "time": time,
        "e2fsprogs": e2fsprogs_version(),
        "code": _code(disk.__file__, ext4.__file__, debugfs.__file__, tree_module.__file__),
    }

    def build(out: Path) -> None:
        with step(f"writing the disk image for {arch.name}"):
            disk.build_disk(tree, out / IMAGE, size_mib=spec.size_mib, time=time)

    return store.get_or_build("image", inputs, build)


def e2fsprogs_version() -> str:
    """Return the version of mke2fs, which decides where it puts what."""
    return run(["mke2fs", "-V"]).output.split("\n")[0]


def _code(*modules: str | None) -> str:
    return digest_tree(*(Path(module) for module in modules if module))
