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


HANGING = {"x86_64": hanging_x86, "aarch64": hanging_arm64}
