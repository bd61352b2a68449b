"""Which accelerator is chosen and why; what a probe's end says; what is kept. The probe itself: tests/boot."""

import os
from dataclasses import replace

import pytest

from guestforge.arch import ARCHES, host
from guestforge.core.errors import UserError
from guestforge.core.runtime import HOST
from guestforge.vmm import accel
from guestforge.vmm.accel import KvmState, choose_accelerator, kvm_state
from guestforge.vmm.errors import MachineError

INTERNAL = """KVM internal error. Suberror: 1
extra data[0]: 0x0000000000000001
emulation failure
RAX=0000000018c329a0 RBX=0000000002181f64"""

FOREIGN = next(arch for arch in ARCHES.values() if not arch.native)


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(b"kernel")
    return path


@pytest.fixture
def probes(monkeypatch, tmp_path):
    """A /dev/kvm that opens, and a list of answers that probes give; each probe takes one."""
    (tmp_path / "kvm").write_bytes(b"")
    monkeypatch.setattr(accel, "KVM", tmp_path / "kvm")
    answers = []
    monkeypatch.setattr(accel, "probe", lambda *_: answers.pop(0))
    return answers


@pytest.mark.parametrize(
    ("error", "usable", "reason"),
    [
        (MachineError("no-init", "x"), True, "a kernel ran to its root file system in 1.0 s"),
        (
            MachineError("qemu-stopped", "x", excerpt=INTERNAL),
            False,
            "KVM internal error. Suberror: 1, emulation failure",
        ),
        (
            MachineError(
                "qemu-failed", "x", excerpt="qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69\nabort"
            ),
            False,
            "QEMU: failed to set MSR 0x10a to 0x69",
        ),
        (MachineError("qemu-failed", "x", excerpt="qemu-system-x86_64: warning: no pni"), False, "x"),
        (MachineError("panic", "the guest's kernel panicked: x"), False, "the guest's kernel panicked: x"),
        (
            MachineError("qemu-exited", "QEMU ended with exit code 0 after guest-reset"),
            False,
            "QEMU ended with exit code 0",
        ),
        (MachineError("timeout", "x", excerpt="a\nlast"), False, "a kernel hung; its console's last line: last"),
        (MachineError("timeout", "x", excerpt=""), False, "a kernel hung; its console's last line: nothing"),
    ],
)
def test_end_of_a_probe_tells_whether_kvm_is_usable_and_why(error, usable, reason):
    state = accel._verdict(error, 1.0)
    assert state.usable is usable
    assert state.reason.startswith(reason)
    assert state.lasting == (error.kind != "timeout")


def test_reason_is_cut():
    assert len(accel._verdict(MachineError("panic", "x" * 1000), 1.0).reason) < 250


def test_tcg_is_what_was_asked_for(kernel):
    assert choose_accelerator("tcg", ARCHES["x86_64"], kernel).reason == "asked for"


@pytest.mark.usefixtures("probes")
def test_foreign_guest_is_emulated_and_never_probed(kernel):
    chosen = choose_accelerator("auto", FOREIGN, kernel)
    assert chosen.name == "tcg"
    assert chosen.reason == f"KVM can't be used: the guest is {FOREIGN.name}, this host {host().name}"
    with pytest.raises(UserError, match=f"KVM can't be used: the guest is {FOREIGN.name}"):
        choose_accelerator("kvm", FOREIGN, kernel)


def test_missing_device_is_the_reason(kernel, monkeypatch, tmp_path):
    monkeypatch.setattr(accel, "KVM", tmp_path / "none")
    assert kvm_state(host(), kernel, cache=tmp_path).reason == f"no {tmp_path / 'none'}"


@pytest.mark.usefixtures("probes")
def test_device_that_does_not_open_is_the_reason(kernel, monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert kvm_state(host(), kernel, cache=tmp_path).reason == f"{tmp_path / 'kvm'}: permission denied"


def test_usable_kvm_is_chosen(kernel, probes, tmp_path):
    probes.append(KvmState(True, "a kernel ran"))
    assert choose_accelerator("auto", host(), kernel, cache=tmp_path) == accel.Accelerator("kvm", "a kernel ran")


def test_unusable_kvm_falls_back_with_its_reason_unless_it_is_asked_for(kernel, probes, tmp_path):
    probes += [KvmState(False, "dies", lasting=False)] * 2
    assert choose_accelerator("auto", host(), kernel, cache=tmp_path).reason == "KVM can't be used: dies"
    with pytest.raises(UserError, match="dies"):
        choose_accelerator("kvm", host(), kernel, cache=tmp_path)


def test_answer_is_kept_until_something_changes(kernel, probes, tmp_path, monkeypatch):
    probes += [KvmState(True, "first"), KvmState(True, "other kernel"), KvmState(True, "other boot")]

    def ask():
        return kvm_state(host(), kernel, cache=tmp_path).reason

    assert [ask(), ask()] == ["first", "first"]
    kernel.write_bytes(b"another")
    assert [ask(), ask()] == ["other kernel", "other kernel"]
    monkeypatch.setattr(accel, "BOOT_ID", kernel)
    assert [ask(), ask()] == ["other boot", "other boot"]


def test_answer_that_may_pass_is_not_kept(kernel, probes, tmp_path):
    probes += [KvmState(False, "hung", lasting=False), KvmState(True, "runs")]
    assert [kvm_state(host(), kernel, cache=tmp_path).reason for _ in range(2)] == ["hung", "runs"]


def test_damaged_answer_is_asked_again(kernel, probes, tmp_path):
    probes += [KvmState(True, "first"), KvmState(True, "second")]
    kvm_state(host(), kernel, cache=tmp_path)
    next((tmp_path / "kvm-answers").iterdir()).write_text("{")
    assert kvm_state(host(), kernel, cache=tmp_path).reason == "second"


def test_processor_is_part_of_the_question(kernel):
    arch = host()
    assert accel._key(arch, kernel, HOST) != accel._key(replace(arch, cpu_kvm="other"), kernel, HOST)
    assert accel._key(arch, kernel, HOST) != accel._key(arch, None, HOST)
