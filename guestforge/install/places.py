"""Where an installed guest lies below a prefix, and the names under which Kata's runtimes look for its files.

The names are those of Kata 4.1 (src/runtime-rs/Makefile, src/runtime/Makefile: PKGDATADIR, IMAGENAME, INITRDNAME,
MAKE_KERNEL_NAME), the folders of configurations those that kata-deploy makes (binary/src/utils/system.rs).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.image.disk_step import IMAGE
from guestforge.image.initrd_step import INITRD
from guestforge.kernel.step import KERNEL
from guestforge.release.names import ROOTS

DATA: Final = Path("share/kata-containers")
OURS: Final = "guestforge"  # our folder there
CURRENT: Final = "current"  # in it a link to the directory of the guest that was installed last
MARK: Final = "architecture"  # in it a file that says what all its guests are for
# What a runtime looks for where its configuration says nothing else: a kernel has either name.
LINKS: Final = {
    "vmlinux.container": KERNEL,
    "vmlinuz.container": KERNEL,
    "kata-containers.img": IMAGE,
    "kata-containers-initrd.img": INITRD,
}
assert set(LINKS.values()) == {KERNEL, *ROOTS.values()}

DEFAULTS: Final = Path("share/defaults/kata-containers")
DROP_INS: Final = "config.d"
# kata-deploy has 10 to 50 for itself and leaves up to 89 to others (docs/runtime-configuration.md)
DROP_IN: Final = "60-guestforge.toml"


@dataclass(frozen=True, slots=True)
class Runtime:
    """One of Kata's runtimes with QEMU: its name, its folder of configurations, and what it alone has options for."""

    name: str
    folder: Path
    rootfs_driver: bool  # the option that says how the image is plugged in; unknown options the other one refuses

    @property
    def configuration(self) -> Path:
        """The file that its drop-ins change."""
        return self.folder / f"configuration-{self.name}.toml"

    @property
    def drop_in(self) -> Path:
        """Our file among its drop-ins."""
        return self.folder / DROP_INS / DROP_IN


RUNTIMES: Final = (
    Runtime("qemu", DEFAULTS / "runtimes/qemu", rootfs_driver=False),
    Runtime("qemu-runtime-rs", DEFAULTS / "runtime-rs/runtimes/qemu-runtime-rs", rootfs_driver=True),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix, and the directory that stands for the root of the machine that it will be on."""

    prefix: Path
    destdir: Path | None = None

    @property
    def root(self) -> Path:
        """Where the prefix is on this machine."""
        return self.destdir / self.prefix.relative_to("/") if self.destdir else self.prefix

    @property
    def folder(self) -> Path:
        """Our folder on this machine."""
        return self.root / DATA / OURS

    def named(self, guest_id: str) -> Path:
        """Return a guest's directory as the machine will name it that it is for."""
        return self.prefix / DATA / OURS / guest_id
