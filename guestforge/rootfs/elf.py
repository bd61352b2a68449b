"""What an ELF file's headers say: for which machine it is, and whether it wants an interpreter.

Format: the System V ABI, chapters 4 (ELF header) and 5 (program header); machine numbers from its registry.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from guestforge.arch import ARCHES, Arch
from guestforge.core.errors import UserError

CLASS_64 = 2
BYTE_ORDERS = {1: "little", 2: "big"}
PT_INTERP = 3
EXECUTABLE_TYPES = (2, 3)  # ET_EXEC, ET_DYN (position-independent)
HEADERS_MAX = 128
INTERPRETER_MAX = 4096


@dataclass(frozen=True, slots=True)
class Elf:
    """A 64-bit executable's facts; `interpreter` is the dynamic loader's path in the guest, None when static."""

    machine: int
    byte_order: str
    interpreter: str | None


def require_static(path: Path, arch: Arch, what: str) -> None:
    """Raise UserError unless a file is a static executable for an architecture; `what` names it in messages."""
    elf = read_elf(path, what)
    if (elf.machine, elf.byte_order) != (arch.elf_machine, arch.byte_order):
        names = {row.elf_machine: row.name for row in ARCHES.values()}
        machine = names.get(elf.machine, f"ELF machine {elf.machine}")
        raise UserError(f"{what} is for {machine} ({elf.byte_order} endian), not for {arch.name}")
    if elf.interpreter is not None:
        raise UserError(
            f"{what} is not static: it wants {elf.interpreter}, which the guest does not have",
            hint="link it statically (Go: CGO_ENABLED=0; Rust: a musl target)",
        )


def read_elf(path: Path, what: str) -> Elf:
    """Return an executable's facts; `what` names it in messages.

    Raises UserError when it is not a whole 64-bit ELF executable.
    """
    try:
        with path.open("rb") as file:
            header = file.read(64)
            if header[:4] != b"\x7fELF" or len(header) < 64 or header[4] != CLASS_64 or header[5] not in BYTE_ORDERS:
                raise UserError(f"{what} is not a 64-bit ELF file")
            byte_order = BYTE_ORDERS[header[5]]
            prefix = "<" if header[5] == 1 else ">"
            kind, machine, _, _, table, _, _, _, size, count = struct.unpack_from(prefix + "HHIQQQIHHH", header, 16)
            if kind not in EXECUTABLE_TYPES or size != 56 or not 0 < count <= HEADERS_MAX:
                raise UserError(f"{what} is an ELF file, but not an executable")
            file.seek(table)
            for at in struct.iter_unpack(prefix + "IIQQQQQQ", _exactly(file.read(size * count), size * count)):
                if at[0] == PT_INTERP:
                    file.seek(at[2])
                    name = file.read(min(at[5], INTERPRETER_MAX)).rstrip(b"\0").decode(errors="replace")
                    return Elf(machine, byte_order, name)
            return Elf(machine, byte_order, None)
    except (EOFError, OverflowError, ValueError) as e:
        raise UserError(f"{what} is cut short or damaged") from e
    except OSError as e:
        raise UserError(f"cannot read {what}: {e.strerror}") from e


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise EOFError
    return data
