"""The architecture table: the only module that knows one architecture from another.

Every other module asks the row. A new architecture is a new row, a folder of fragments under `kernel-configs/`,
and what `docs/architecture.md` lists besides.
"""

import difflib
import platform
from dataclasses import dataclass
from typing import Literal

from guestforge.core.errors import UserError

ByteOrder = Literal["little", "big"]
OpenFlags = Literal["generic", "arm64", "powerpc"]


@dataclass(frozen=True, slots=True)
class Packing:
    """One way to pack the bootable file, under recipes' name of it."""

    name: str
    option: str  # asks Kconfig for it; empty where the file is there whatever is asked
    path: str  # the file below the build directory


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture, under every name that a tool has for it, and the machine that QEMU gives it."""

    name: str
    aliases: tuple[str, ...]
    # the kernel's build
    kernel_arch: str  # make ARCH=
    cross_prefix: str  # make CROSS_COMPILE=, the GNU triplet and a dash
    kernel_target: str  # the make target of the bootable file
    kernel_path: str  # that file below the build directory
    kernel_packings: tuple[Packing, ...]  # the ways to pack it, the default first; none where it is always as linked
    # other tools' names
    debian: str
    debian_compiler: str  # the package with the (cross) compiler
    debian_qemu: str  # the package with the emulator
    backports_qemu: str  # the same in the backports of a release
    go: str  # GOARCH
    go_settings: tuple[tuple[str, str], ...]  # what chooses the processor for Go, at Go's own default
    oci_variant: str  # of an image, where it may name one: the `variant` of an OCI platform
    elf_machine: int  # e_machine, from the registry of the System V ABI
    # the guest's binary interface, as FUSE messages and system calls show it
    byte_order: ByteOrder
    open_flags: OpenFlags  # which of the kernel's asm/fcntl.h it has
    # QEMU's machine
    qemu: str  # the emulator
    machine: str  # -machine
    # for a kernel under TCG, a firmware with less to do: added to -machine, and the arguments that go with it
    machine_options_tcg: str
    firmware_args_tcg: tuple[str, ...]
    cpu_tcg: str  # -cpu where the guest is emulated
    cpu_kvm: str  # -cpu where the host runs it
    # The first QEMU whose TCG drops all translations of a page that the guest's kernel clears, see vmm/emulator.py
    tcg_forgets_since: tuple[int, int]
    virtio_bus: str  # the suffix of virtio device names
    vsock_bus: str  # the same for vhost-user-vsock, which QEMU 7.2 has on PCI alone
    console: str  # the kernel's name of the console
    console_device: tuple[str, ...]  # the arguments that connect it to the chardev `console`
    kernel_args: tuple[str, ...]  # what the kernel needs on its command line on this machine
    kernel_args_tcg: tuple[str, ...]  # and besides with one processor under TCG, where it would only wait
    cmdline_max: int  # bytes that the kernel keeps of its command line (COMMAND_LINE_SIZE)
    max_cpus: int  # of QEMU's machine, 255 where it has more than a recipe may ask for
    max_cpus_tcg: int  # more stall the guest under TCG
    min_memory_mib: int  # what `minimal` boots with from an initrd: 52, 44, 256, 48 were the least that did
    memory_step_mib: int  # QEMU's machine takes multiples of it
    block_driver: str  # the agent's driver of a virtio disk
    kernel_log_start: str  # a line of the console that every boot begins with

    def kernel_file(self, compression: str | None) -> str:
        """Return the bootable file below the build directory, packed as a recipe says, None being the default."""
        chosen = compression or (self.kernel_packings[0].name if self.kernel_packings else None)
        return next((each.path for each in self.kernel_packings if each.name == chosen), self.kernel_path)

    @property
    def native(self) -> bool:
        """Whether this is the architecture of the host."""
        return self is host()


_SERIAL = ("-serial", "chardev:console")


def _bzimage(path: str, *options: tuple[str, str]) -> tuple[Packing, ...]:
    return tuple(Packing(name, f"CONFIG_KERNEL_{option}", path) for name, option in options)


_COMPRESSED = (("lz4", "LZ4"), ("zstd", "ZSTD"), ("gzip", "GZIP"), ("xz", "XZ"))  # docs/compressions.md compares them

X86_64 = Arch(
    name="x86_64",
    aliases=("amd64", "x86-64", "x64"),
    kernel_arch="x86",
    cross_prefix="x86_64-linux-gnu-",
    kernel_target="bzImage",
    kernel_path="arch/x86/boot/bzImage",
    kernel_packings=(
        *_bzimage("arch/x86/boot/bzImage", *_COMPRESSED),
        # what the bzImage would unpack: an ELF file with the entry point of PVH
        Packing("none", "", "arch/x86/boot/compressed/vmlinux.bin"),
    ),
    debian="amd64",
    debian_compiler="gcc-x86-64-linux-gnu",
    debian_qemu="qemu-system-x86",
    backports_qemu="qemu-system-x86",
    go="amd64",
    go_settings=(("GOAMD64", "v1"),),
    oci_variant="",
    elf_machine=62,
    byte_order="little",
    open_flags="generic",
    qemu="qemu-system-x86_64",
    machine="q35",
    machine_options_tcg="",
    firmware_args_tcg=(),
    # Without these the kernel clears and copies with a loop of whole words; TCG does `rep stosb` a byte at a time.
    cpu_tcg="max,erms=off,fsrm=off",
    cpu_kvm="host",
    tcg_forgets_since=(0, 0),  # this kernel clears with plain stores, which every version sees whole
    virtio_bus="pci",
    vsock_bus="pci",
    console="ttyS0",
    console_device=_SERIAL,
    # the check of the timer interrupt takes 50 ms under TCG, and can fail on a loaded host though the timer works
    kernel_args=("reboot=k", "no_timer_check"),
    # the local APIC's timer is measured against another one, which takes a fifth of the boot; KVM gives a TSC deadline
    kernel_args_tcg=("nolapic_timer",),
    cmdline_max=2048,
    max_cpus=255,
    max_cpus_tcg=255,
    min_memory_mib=64,
    memory_step_mib=1,
    block_driver="blk",
    kernel_log_start="Linux version",
)

AARCH64 = Arch(
    name="aarch64",
    aliases=("arm64", "armv8"),
    kernel_arch="arm64",
    cross_prefix="aarch64-linux-gnu-",
    kernel_target="Image",
    kernel_path="arch/arm64/boot/Image",
    kernel_packings=(),
    debian="arm64",
    debian_compiler="gcc-aarch64-linux-gnu",
    debian_qemu="qemu-system-arm",
    backports_qemu="qemu-system-arm",
    go="arm64",
    go_settings=(("GOARM64", "v8.0"),),
    oci_variant="v8",
    elf_machine=183,
    byte_order="little",
    open_flags="arm64",
    qemu="qemu-system-aarch64",
    machine="virt,gic-version=3",
    machine_options_tcg="",
    firmware_args_tcg=(),
    # the architected pointer authentication is slow to emulate; any implementation will do for a guest
    cpu_tcg="max,pauth-impdef=on",
    cpu_kvm="host",
    tcg_forgets_since=(8, 2),  # DC ZVA
    virtio_bus="pci",
    vsock_bus="pci",
    console="ttyAMA0",
    console_device=_SERIAL,
    kernel_args=(),
    kernel_args_tcg=(),
    cmdline_max=2048,
    max_cpus=255,
    max_cpus_tcg=255,
    min_memory_mib=56,
    memory_step_mib=1,
    block_driver="blk",
    kernel_log_start="Linux version",
)

PPC64LE = Arch(
    name="ppc64le",
    aliases=("ppc64el", "powerpc64le", "powerpc64el"),
    kernel_arch="powerpc",
    cross_prefix="powerpc64le-linux-gnu-",
    kernel_target="vmlinux",  # SLOF, the firmware of pseries, boots no zImage
    kernel_path="vmlinux",
    kernel_packings=(),
    debian="ppc64el",
    debian_compiler="gcc-powerpc64le-linux-gnu",
    debian_qemu="qemu-system-ppc",
    backports_qemu="qemu-system-ppc",
    go="ppc64le",
    go_settings=(("GOPPC64", "power8"),),
    oci_variant="",
    elf_machine=21,
    byte_order="little",
    open_flags="powerpc",
    qemu="qemu-system-ppc64",
    machine="pseries",
    # SLOF runs 3.9e9 instructions before the kernel's first. QEMU's Virtual Open Firmware runs none, and does not lay
    # out the NVRAM either, of which the kernel would warn: QEMU itself does, to put a variable of the firmware's there.
    machine_options_tcg=",x-vof=on",
    firmware_args_tcg=("-prom-env", "auto-boot?=true"),
    cpu_tcg="power9",
    cpu_kvm="host",
    tcg_forgets_since=(8, 2),  # dcbz
    virtio_bus="pci",
    vsock_bus="pci",
    console="hvc0",
    console_device=_SERIAL,
    kernel_args=(),
    kernel_args_tcg=(),
    cmdline_max=2048,
    max_cpus=255,
    max_cpus_tcg=255,
    min_memory_mib=256,
    memory_step_mib=256,
    block_driver="blk",
    kernel_log_start="Linux version",
)

S390X = Arch(
    name="s390x",
    aliases=("s390", "systemz"),
    kernel_arch="s390",
    cross_prefix="s390x-linux-gnu-",
    kernel_target="bzImage",
    kernel_path="arch/s390/boot/bzImage",
    kernel_packings=_bzimage("arch/s390/boot/bzImage", *_COMPRESSED, ("none", "UNCOMPRESSED")),
    debian="s390x",
    debian_compiler="gcc-s390x-linux-gnu",
    debian_qemu="qemu-system-misc",
    backports_qemu="qemu-system-s390x",
    go="s390x",
    go_settings=(),
    oci_variant="",
    elf_machine=22,
    byte_order="big",
    open_flags="generic",
    qemu="qemu-system-s390x",
    machine="s390-ccw-virtio",
    machine_options_tcg="",
    firmware_args_tcg=(),
    cpu_tcg="max,zpci=on",  # zPCI carries the vsock device
    cpu_kvm="host",
    tcg_forgets_since=(8, 2),  # MVCL, and MVCOS copies what a program writes
    virtio_bus="ccw",
    vsock_bus="pci",
    console="ttysclp0",
    console_device=("-device", "sclpconsole,chardev=console"),
    kernel_args=(),
    kernel_args_tcg=(),
    cmdline_max=896,
    max_cpus=248,
    max_cpus_tcg=8,  # RCU stalls with more
    min_memory_mib=56,
    memory_step_mib=1,
    block_driver="blk-ccw",
    kernel_log_start="Linux version",
)

ARCHES = {arch.name: arch for arch in (X86_64, AARCH64, PPC64LE, S390X)}
PROVEN = (X86_64, AARCH64, PPC64LE, S390X)  # those whose guests boot and pass every check today
_BY_ANY_NAME = {name: arch for arch in ARCHES.values() for name in (arch.name, *arch.aliases)}


def lookup(name: str) -> Arch:
    """Return the row of an architecture by its name or by an alias that people type.

    Raises UserError with the list of names and the nearest one.
    """
    arch = _BY_ANY_NAME.get(name.strip().lower())
    if arch is None:
        near = difflib.get_close_matches(name.lower(), _BY_ANY_NAME, n=1, cutoff=0.5)
        hint = f"did you mean {_BY_ANY_NAME[near[0]].name}?" if near else None
        raise UserError(f"unknown architecture {name!r}; there are {', '.join(ARCHES)}, and all", hint=hint)
    return arch


def lookup_list(names: str) -> tuple[Arch, ...]:
    """Return the rows of a comma-separated list or of `all`, each once, in the order given."""
    if names.strip().lower() == "all":
        return tuple(ARCHES.values())
    wanted = [name for name in names.split(",") if name.strip()]
    if not wanted:
        raise UserError("no architecture given", hint=f"--arch takes one of {', '.join(ARCHES)}, a comma list, or all")
    return tuple(dict.fromkeys(lookup(name) for name in wanted))


def host() -> Arch:
    """Return the row of the machine that we run on; raises UserError on one that is not in the table."""
    return lookup(platform.machine())
