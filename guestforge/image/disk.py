"""The disk image: a raw, sparse file with an MBR partition table and one partition with an ext4 root.

    0          MBR (UEFI specification 5.2.1: four entries of 16 bytes at 446, 0x55AA at 510)
    1 MiB      the root file system, type 0x83, to the end
    the whole is a multiple of 2 MiB

A guest with it as its first virtio disk boots with root=/dev/vda1.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guestforge.core.runtime import Runtime
from guestforge.image import ext4
from guestforge.rootfs.tree import Tree

MIB = 1024 * 1024
SECTOR = 512
ALIGNMENT = 2 * MIB  # a huge page: what a runtime needs that maps the image as an nvdimm
LINUX = 0x83
LABEL = "guestforge-root"
# heads, sectors and cylinders of an entry whose place only its sector numbers tell
NO_CHS = b"\xfe\xff\xff"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where on a disk the root partition begins, in bytes, and at which offsets there is an MBR that points to it."""

    root: int
    tables: tuple[int, ...]


PLAIN = Layout(root=1 * MIB, tables=(0,))


def build_disk(
    tree: Tree, out: Path, runtime: Runtime, *, size_mib: int | None = None, time: int = 0, layout: Layout = PLAIN
) -> None:
    """Write a disk image of a tree, of `size_mib` MiB (rounded up to 2 MiB) or of the size that the tree needs.

    `time` is in seconds since 1970. Raises UserError when the size is too small, BuildError when a tool fails or the
    disk is full; `out` is then as it was before.
    """
    with ext4.scratch(out, runtime) as work:
        size = _root_size(tree, work, size_mib, layout)
        format = ext4.format_for(tree, size, fixed=size_mib is not None, offset=layout.root, label=LABEL, time=time)
        image = work.directory / "image"
        ext4.write(tree, image, format, work)
        with image.open("r+b") as file:
            for offset, table in partition_tables(layout, size, signature=int(format.uuid[:8], 16)):
                file.seek(offset)
                file.write(table)
        image.replace(out)


def _root_size(tree: Tree, work: ext4.Work, size_mib: int | None, layout: Layout) -> int:
    if size_mib is None:
        # the search goes in steps of the alignment, from what makes the whole disk aligned
        return ext4.needed_size(tree, work, start=-layout.root % ALIGNMENT)
    return -(-size_mib * MIB // ALIGNMENT) * ALIGNMENT - layout.root


def partition_tables(layout: Layout, size: int, *, signature: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and content of each partition table; a table counts sectors from where it is."""
    for offset in layout.tables:
        yield offset, mbr((layout.root - offset) // SECTOR, size // SECTOR, signature)


def mbr(start: int, sectors: int, signature: int) -> bytes:
    """Return a master boot record with one Linux partition; `start` and `sectors` in units of 512 bytes.

    `signature` is the disk's, of 32 bits; PARTUUID=<signature>-01 names the partition on a kernel's command line.
    """
    entry = struct.pack("<B3sB3sII", 0, NO_CHS, LINUX, NO_CHS, start, sectors)
    return struct.pack("<440sIH64s2s", b"", signature, 0, entry, b"\x55\xaa")
