"""Kernels with a fault that no command line gives, made from good ones."""

import struct


def hanging_x86(kernel: bytes) -> bytes:
    """Return a bzImage that loops at its protected-mode entry, before it has a console.

    The entry follows the setup sectors, whose number less one is at 0x1f1 (kernel, Documentation/arch/x86/boot.rst).
    """
    assert kernel[0x202:0x206] == b"HdrS"
    entry = (kernel[0x1F1] + 1) * 512
    return kernel[:entry] + b"\xeb\xfe" + kernel[entry + 2 :]  # jmp to itself


def hanging_arm64(kernel: bytes) -> bytes:
    """Return an Image whose first instruction loops (kernel, Documentation/arch/arm64/booting.rst)."""
    assert kernel[0x38:0x3C] == b"ARM\x64"
    return struct.pack("<I", 0x14000000) + kernel[4:]  # b to itself


def hanging_powerpc(kernel: bytes) -> bytes:
    """Return a vmlinux that loops at its entry, to which the firmware jumps in big-endian mode.

    The entry is an address of the first segment (System V ABI, chapters 4 and 5: ELF header, program header).
    """
    (entry, table) = struct.unpack_from("<QQ", kernel, 24)
    kind, _, offset, address = struct.unpack_from("<IIQQ", kernel, table)
    assert kernel[:4] == b"\x7fELF"
    assert kind == 1  # PT_LOAD
    at = offset + entry - address
    return kernel[:at] + b"\x48\0\0\0" + kernel[at + 4 :]  # b to itself


def hanging_s390(kernel: bytes) -> bytes:
    """Return a bzImage that loops where QEMU starts it: at 64 KiB (kernel, arch/s390/boot/head.S)."""
    assert kernel[0x10008:0x1000E] == b"S390EP"
    return kernel[:0x10000] + b"\xa7\xf4\0\0" + kernel[0x10004:]  # j to itself


HANGING = {
    "x86_64": hanging_x86,
    "aarch64": hanging_arm64,
    "ppc64le": hanging_powerpc,
    "s390x": hanging_s390,
}
