"""TCG or KVM: which of the two runs a guest, and why.

That /dev/kvm opens proves nothing: on some nested hosts it even creates a machine and runs its firmware, and then an
ordinary kernel dies in `KVM internal error ... emulation failure`: instructions that the hardware should run are
emulated there, and not all can be. No small program of ours can stand for a kernel in that. So the proof is the kernel
under test itself, started under KVM without a root file system: it must come as far as to look for one. That takes a
second where KVM works, less where it does not, and the answer is kept until host, QEMU or kernel change.
"""

import hashlib
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from guestforge.arch import Arch, host
from guestforge.core.cache import user_cache
from guestforge.core.errors import UserError
from guestforge.core.files import atomic_file, digest_file
from guestforge.core.runtime import HOST, Runtime
from guestforge.core.scratch import scratch_directory
from guestforge.project.options import WantedAccelerator
from guestforge.vmm.errors import MachineError
from guestforge.vmm.machine import Machine
from guestforge.vmm.plan import AcceleratorName, MachinePlan

KVM: Final = Path("/dev/kvm")
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
KERNEL_LIMIT: Final = 10.0  # seconds until a kernel looks for its root; a tenth of that is usual
FIRMWARE_TIME: Final = 0.5  # seconds that a machine without a kernel must last
MAX_REASON: Final = 200

_INTERNAL: Final = re.compile(r"KVM internal error\. Suberror: \d+|emulation failure")
_PROGRAM: Final = re.compile(r"^\S*qemu-system-\S+: (?:error: )?")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs the guest's instructions, and why that."""

    name: AcceleratorName
    reason: str


@dataclass(frozen=True, slots=True)
class KvmState:
    """Whether KVM runs guests here; None where nothing speaks against it and no kernel was there to prove it."""

    usable: bool | None
    reason: str
    lasting: bool = True  # the same would come out if it were tried again


def choose_accelerator(
    wanted: WantedAccelerator, arch: Arch, kernel: Path, runtime: Runtime = HOST, *, cache: Path | None = None
) -> Accelerator:
    """Return what runs this kernel. Raises UserError with the reason if KVM is asked for and can't be used."""
    if wanted == "tcg":
        return Accelerator("tcg", "asked for")
    state = kvm_state(arch, kernel, runtime, cache=cache)
    if state.usable:
        return Accelerator("kvm", state.reason)
    if wanted == "kvm":
        raise UserError(f"KVM can't be used: {state.reason}", hint="--accel tcg, or auto, which falls back to it")
    return Accelerator("tcg", f"KVM can't be used: {state.reason}")


def kvm_state(arch: Arch, kernel: Path | None, runtime: Runtime = HOST, *, cache: Path | None = None) -> KvmState:
    """Return whether KVM runs guests of an architecture here, by running this kernel, or the firmware without one."""
    if reason := _ruled_out(arch):
        return KvmState(False, reason)
    kept = (cache or user_cache().path) / "kvm-answers" / f"{_key(arch, kernel, runtime)}.json"
    if (state := _kept(kept)) is None:
        state = probe(arch, kernel, "kvm", runtime)
        if state.lasting:
            with atomic_file(kept, "w") as file:
                json.dump(asdict(state), file)
    return state


def probe(arch: Arch, kernel: Path | None, accelerator: AcceleratorName, runtime: Runtime = HOST) -> KvmState:
    """Start a machine without a root file system, and tell whether its kernel came as far as to look for one."""
    with scratch_directory("guestforge-kvm-") as scratch:
        plan = MachinePlan(arch, accelerator, kernel, scratch / "console.log")
        start = time.monotonic()
        try:
            with Machine(plan, runtime) as machine:
                _wait_in_vain(machine, kernel)
        except MachineError as e:
            return _verdict(e, time.monotonic() - start)
    return KvmState(None, f"{KVM} opens and firmware runs; only a kernel would prove it")


def _ruled_out(arch: Arch) -> str | None:
    if not arch.native:
        return f"the guest is {arch.name}, this host {host().name}"
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"no {KVM}"
    except OSError as e:
        return f"{KVM}: {(e.strerror or str(e)).lower()}"
    return None


def _wait_in_vain(machine: Machine, kernel: Path | None) -> None:
    """Wait for the machine's end, which MachineError tells of; return only from firmware that goes on."""
    if kernel is None:
        time.sleep(FIRMWARE_TIME)
        machine.verify()
        return
    ended = machine.wait_end(KERNEL_LIMIT)
    raise MachineError("qemu-exited", str(ended), excerpt=machine.console_tail(1))


def _verdict(error: MachineError, seconds: float) -> KvmState:
    if error.kind == "no-init":
        return KvmState(True, f"a kernel ran to its root file system in {seconds:.1f} s")
    if error.kind == "timeout":
        last = (error.excerpt or "nothing").splitlines()[-1]
        return KvmState(False, _cut(f"a kernel hung; its console's last line: {last}"), lasting=False)
    return KvmState(False, _cut(_words(error)))


def _words(error: MachineError) -> str:
    """Return what matters of what QEMU said."""
    lines = (error.excerpt or "").splitlines()
    if internal := [match[0] for line in lines if (match := _INTERNAL.search(line))]:
        return ", ".join(internal)
    wrong = [line for line in lines if "warning:" not in line]
    if error.kind in {"qemu-failed", "qemu-stopped"} and wrong:
        return f"QEMU: {_PROGRAM.sub('', wrong[0])}"
    return error.message


def _cut(text: str) -> str:
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def _key(arch: Arch, kernel: Path | None, runtime: Runtime) -> str:
    """Return a digest of all that the answer depends on: host kernel and its boot, QEMU, processor, guest kernel."""
    qemu = runtime.find_tool(arch.qemu)
    status = qemu.stat() if qemu else None
    facts = [
        *(os.uname().release, os.uname().version, BOOT_ID.read_text()),
        *(str(qemu), status and status.st_mtime_ns, status and status.st_size),
        *(arch.machine, arch.cpu_kvm),
        digest_file(kernel) if kernel else "firmware",
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _kept(path: Path) -> KvmState | None:
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        return KvmState(**facts)
    except (FileNotFoundError, ValueError, TypeError):
        return None
