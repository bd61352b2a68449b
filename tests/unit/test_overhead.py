"""What a guest costs its host: from samples to figures, files and a RuntimeClass; and what programs have used."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from guestforge.agent.answers import ContainerStats, MemoryUse
from guestforge.agent.errors import AgentError
from guestforge.agent.tasks import Status
from guestforge.arch import ARCHES, X86_64
from guestforge.cli import overhead as cli
from guestforge.core.errors import CheckError, UserError
from guestforge.overhead import report, usage
from guestforge.overhead.figures import Figure, Measured, figure, figures, memory_mib, millicores, pod_fixed
from guestforge.overhead.host import Host, load, this_host
from guestforge.overhead.measure import STATES, Program, Sample, State, containers_kib
from guestforge.overhead.report import JSON, TABLE, Measurement, runtimeclass_name, table, to_json, write
from guestforge.overhead.runtimeclass import runtimeclass
from guestforge.project.option import read
from guestforge.project.options import KATA_HANDLER, BuildOptions, CheckOptions, OverheadOptions
from guestforge.vmm.accel import Accelerator

KUBERNETES = "1.37"  # a current one; an older kubernetes-validate does not know it and says so
YAML = runtimeclass_name(X86_64)
MIB = 1024


def sample(qemu=100 * MIB, server=5 * MIB, vsock=None, containers=0, cpu=0.5, used=14_000):
    programs = {"qemu": Program(qemu + 4 * MIB, qemu, cpu), "virtio_fs": Program(server + MIB, server, 0.25)}
    if vsock is not None:
        programs["vsock"] = Program(2 * vsock, vsock, 0.0)
    return Sample(230_000, used, containers, programs)


MEASURED = (
    Measured(STATES[0], (sample(), sample(qemu=101 * MIB, cpu=1.0))),
    Measured(STATES[1], (sample(containers=4 * MIB, cpu=0.1), sample(qemu=120 * MIB, containers=4 * MIB))),
    Measured(STATES[2], (sample(qemu=140 * MIB, containers=40 * MIB), sample(qemu=150 * MIB, containers=40 * MIB))),
)
FOUND = Measurement(
    arch=X86_64, guest="minimal", artifact="image", digests={"kernel": "5" * 64}, memory_mib=256, cpus=1,
    accelerator="kvm", accelerator_reason="a kernel ran", qemu="QEMU emulator version 9.2.0",
    virtio_fs_server="guestforge virtio-fs (asked for)", vsock_device="kernel vhost-vsock (/dev/vhost-vsock is usable)",
    host=Host(4, "AMD EPYC", 16_000, "6.12.1", 4096), at="2026-11-26T12:00:00+00:00", load=(0.1, 0.2), idle=5.0,
    measured=MEASURED, fixed=pod_fixed(MEASURED, 20),
)  # fmt: skip
EMULATED = replace(FOUND, accelerator="tcg", accelerator_reason="no /dev/kvm")

# figures


def test_a_figure_is_a_median_and_how_far_the_boots_are_apart():
    assert figure([4.0, 5.0, 3.0, 4.0]) == Figure(4.0, 3.0, 5.0)
    assert figure([4.0, 5.0, 3.0, 4.0]).spread == 0.5
    assert figure([0.0, 0.0]).spread == 0.0
    assert figure([7]).spread == 0.0


def test_figures_of_a_state_are_of_each_program_and_of_all_together():
    found = figures([sample(vsock=2 * MIB, containers=3 * MIB), sample(vsock=4 * MIB, containers=3 * MIB)])
    assert found["qemu_rss_kib"].median == 104 * MIB
    assert found["vsock_pss_kib"] == Figure(3 * MIB, 2 * MIB, 4 * MIB)
    assert found["host_pss_kib"] == Figure(108 * MIB, 107 * MIB, 109 * MIB)
    assert found["overhead_kib"] == Figure(105 * MIB, 104 * MIB, 106 * MIB)
    assert found["host_cpu_seconds_a_minute"].median == 0.75
    assert "vsock_pss_kib" not in figures([sample()])


def test_what_containers_have_themselves_is_no_overhead_and_no_overhead_is_below_nothing():
    assert figures([sample(containers=40 * MIB)])["overhead_kib"].median == 65 * MIB
    assert figures([sample(containers=400 * MIB)])["overhead_kib"].median == 0


def test_a_pod_has_the_most_that_any_boot_of_any_state_needed():
    fixed = FOUND.fixed
    assert (fixed.memory.amount, fixed.memory.state) == (121 * MIB, "one container")  # 115 MiB with ten
    assert (fixed.cpu.amount, fixed.cpu.state) == (1.25, "idle sandbox")
    assert (fixed.memory_mib, fixed.cpu_millicores, fixed.headroom) == (146, 25, 20)  # 145.2 and 25


@pytest.mark.parametrize(
    ("kib", "headroom", "mib"), [(1024, 0, 1), (1025, 0, 2), (102_400, 20, 120), (102_401, 20, 121), (0, 0, 1)]
)
def test_memory_is_rounded_up_to_whole_mebibytes(kib, headroom, mib):
    assert memory_mib(kib, headroom) == mib


@pytest.mark.parametrize(
    ("seconds", "headroom", "thousandths"),
    [(0.06, 0, 1), (0.0601, 0, 2), (15.0, 0, 250), (60.0, 20, 1200), (0.0, 50, 1), (0.3, 0, 5)],
)
def test_processor_time_is_rounded_up_to_whole_millicores(seconds, headroom, thousandths):
    assert millicores(seconds, headroom) == thousandths


@given(st.integers(1, 1 << 40), st.integers(0, 400))
def test_rounding_up_adds_less_than_one(kib, headroom):
    wanted = kib * (100 + headroom) / 100 / 1024
    assert wanted * (1 - 1e-9) <= memory_mib(kib, headroom) <= max(1, wanted * (1 + 1e-9) + 1)


# the RuntimeClass


def text_of(arch=X86_64, found=FOUND, handler=KATA_HANDLER):
    return runtimeclass(arch, handler, found.accelerator, found.fixed, tuple(report.comments(found)))


def valid(text):
    return kubernetes_validate.validate(yaml.safe_load(text), KUBERNETES, strict=True) == KUBERNETES


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_kubernetes_takes_the_class_of_each_architecture(arch):
    text = text_of(arch)
    assert valid(text)
    assert yaml.safe_load(text) == {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": f"{KATA_HANDLER}-{arch.go}", "annotations": {"guestforge/accelerator": "kvm"}},
        "handler": KATA_HANDLER,
        "overhead": {"podFixed": {"memory": "146Mi", "cpu": "25m"}},
        "scheduling": {"nodeSelector": {"kubernetes.io/arch": arch.go}},
    }


def test_architectures_have_the_names_of_kubernetes():
    assert {arch.go for arch in ARCHES.values()} == {"amd64", "arm64", "ppc64le", "s390x"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("handler:", "handlers:"), ("podFixed:", "podfixed:"), ("    memory: 146Mi", "    memory: [146]"),
        ("nodeSelector:\n", "nodeSelector: x\n  y:\n"), (f'"{KATA_HANDLER}"', "7"),
        ("node.k8s.io/v1", "node.k8s.io/v3"),
    ],
)  # fmt: skip
def test_the_validation_notices_a_class_that_is_wrong(old, new):
    text = text_of()
    assert old in text
    with pytest.raises((kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)):
        valid(text.replace(old, new))


@pytest.mark.parametrize("handler", ["123", "true", "null", "1e3", "0x1f", "y", "a"])
def test_a_handler_is_a_text_whatever_it_looks_like(handler):
    assert valid(text_of(handler=handler))
    assert yaml.safe_load(text_of(handler=handler))["handler"] == handler


def test_the_class_says_what_it_was_measured_on_and_warns_of_emulation():
    words = ("kvm (a kernel ran)", "AMD EPYC", "121.0 MiB", "20 % headroom", "minimal (image)")
    assert [each for each in words if each not in text_of()] == []
    assert "WARNING" not in text_of()
    emulated = text_of(found=EMULATED)
    assert "# WARNING: Measured under TCG" in emulated
    assert yaml.safe_load(emulated)["metadata"]["annotations"] == {"guestforge/accelerator": "tcg"}


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028"])
def test_nothing_gets_out_of_a_comment(end):
    found = replace(FOUND, accelerator_reason=f"a{end}other: x{end}#")
    assert yaml.safe_load(text_of(found=found)) == yaml.safe_load(text_of())


# the files


def test_the_figures_are_written_with_their_method(tmp_path):
    write(FOUND, tmp_path, KATA_HANDLER)
    said = json.loads((tmp_path / JSON).read_text())
    assert said == to_json(FOUND)
    assert (said["accelerator"], said["host"]["model"], said["warning"]) == ("kvm", "AMD EPYC", None)
    assert said["method"]["idle_seconds"] == 5.0
    assert said["method"]["spread"] == "(most - least) / median"
    assert [state["containers"] for state in said["states"]] == [0, 1, 10]
    assert [len(state["boots"]) for state in said["states"]] == [2, 2, 2]
    assert said["states"][0]["figures"]["qemu_pss_kib"] == {
        "median": 100.5 * MIB, "least": 100 * MIB, "most": 101 * MIB, "spread": 0.01,
    }  # fmt: skip
    assert said["pod_fixed"]["memory_mib"] == 146
    assert valid((tmp_path / YAML).read_text())
    assert "| QEMU, PSS | 100.5 MiB (1.0%) |" in (tmp_path / TABLE).read_text()
    assert "TCG" not in (tmp_path / TABLE).read_text()
    assert "**Measured under TCG" in table(EMULATED)
    assert to_json(EMULATED)["warning"].startswith("Measured under TCG")


def test_every_figure_has_its_line_in_the_table():
    both = figures([sample(vsock=1)])
    assert set(both) == set(report.LABELS)


def test_a_class_of_other_figures_does_not_stay(tmp_path):
    write(FOUND, tmp_path, KATA_HANDLER)
    write(EMULATED, tmp_path, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [JSON, TABLE]
    assert json.loads((tmp_path / JSON).read_text())["accelerator"] == "tcg"


@pytest.mark.parametrize("moment", range(6))
def test_whatever_is_there_after_an_interruption_is_whole_and_of_one_measurement(tmp_path, monkeypatch, moment):
    write(FOUND, tmp_path, KATA_HANDLER)
    left = moment

    def interrupted(real):
        def call(*args, **kwargs):
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr("pathlib.Path.replace", interrupted(type(tmp_path).replace))
    monkeypatch.setattr("pathlib.Path.unlink", interrupted(type(tmp_path).unlink))
    try:
        write(EMULATED, tmp_path, KATA_HANDLER)
    except KeyboardInterrupt:
        assert moment < 5
    monkeypatch.undo()
    accelerator = json.loads((tmp_path / JSON).read_text())["accelerator"]
    found = {"kvm": FOUND, "tcg": EMULATED}[accelerator]
    there = {path.name: path.read_text() for path in tmp_path.iterdir() if not path.name.startswith(".")}
    wanted = {TABLE: table(found), YAML: text_of(found=found), JSON: there[JSON]}
    assert {name: text for name, text in there.items() if text != wanted[name]} == {}
    assert (len(there) == 3) == (moment in {0, 5})


# what a user asks for


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"boots": "0"}, "--boots 0: not a number from 1 to 1000"),
        ({"boots": "1.5"}, "--boots 1.5: not a whole number"),
        ({"idle": "0"}, "--idle 0: not a number from 0.5 to 3600"),
        ({"headroom": "-1"}, "--headroom -1: not a number from 0 to 400"),
        ({"headroom": "401"}, "--headroom 401: not a number from 0 to 400"),
        *(
            ({"handler": name}, "no name of a handler")
            for name in ("", "Kata", "kata_qemu", "-kata", "kata-", "kata.qemu", "a" * 64, "kata\n", "kätä", "²")
        ),
    ],
)
def test_what_can_not_be_measured_is_refused(given, message):
    with pytest.raises(UserError) as caught:
        read(OverheadOptions, given)
    assert message in caught.value.message


@pytest.mark.parametrize("name", ["a", "kata-qemu", "0", "a" * 63])
def test_a_handler_is_a_label_of_the_dns(name):
    assert read(OverheadOptions, {"handler": name}).handler == name


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Run the task with guests that need not be booted, by an accelerator; return its exit code and where it wrote."""

    def run(accelerator, **asked):
        artifacts = SimpleNamespace(
            arch=X86_64, guest="minimal", kernel=tmp_path / "kernel", memory_mib=256, cpus=1, booted=lambda _: {}
        )
        guest = SimpleNamespace(
            output=tmp_path / "out", guest_artifacts=lambda _: artifacts, try_places=lambda: None, arch=X86_64
        )
        seen = []
        monkeypatch.setattr(cli, "guest_to_boot", lambda *_: guest)
        monkeypatch.setattr(cli, "guest_needs", lambda _: ())
        monkeypatch.setattr(cli, "make_guests", lambda *_, **__: None)
        monkeypatch.setattr(cli, "choose_accelerator", lambda *_: Accelerator(accelerator, "said the test"))
        monkeypatch.setattr(cli, "measure", lambda _, state: seen.append(state) or sample())
        code = cli.overhead(BuildOptions(arches=(X86_64,)), CheckOptions(), OverheadOptions(**asked))
        return code, tmp_path / "out" / "overhead", seen

    return run


def test_emulated_figures_are_written_and_no_class_without_leave(measured, capsys):
    code, place, _ = measured("tcg", boots=1)
    assert code == 1
    assert sorted(path.name for path in place.iterdir()) == [JSON, TABLE]
    said = capsys.readouterr().err
    assert f"the figures were written to {place}, and no {YAML}" in said
    assert "--allow-tcg" in said


@pytest.mark.parametrize(("accelerator", "asked"), [("tcg", {"allow_tcg": True}), ("kvm", {})])
def test_a_class_is_written_of_a_guest_that_ran_or_with_leave(measured, accelerator, asked):
    code, place, seen = measured(accelerator, boots=3, headroom=50, handler="mine", **asked)
    assert code == 0
    text = (place / YAML).read_text()
    assert valid(text)
    assert yaml.safe_load(text)["overhead"]["podFixed"] == {"memory": "158Mi", "cpu": "19m"}  # 157.5 and 18.75
    assert yaml.safe_load(text)["handler"] == "mine"
    assert ("WARNING" in text) == (accelerator == "tcg")
    assert seen == list(STATES) * 3  # in turn


# what a guest says


class Tasks:
    """A task service, and what it says of every container."""

    def __init__(self, status=Status.RUNNING, memory=MIB * 1024):
        self.status, self.memory = status, memory

    def state(self, _):
        return SimpleNamespace(status=self.status)

    def stats(self, _):
        memory = None if self.memory is None else MemoryUse(self.memory, 0)
        return ContainerStats(0.0, 0.0, memory, 1, 0, {})


def test_the_memory_of_containers_is_that_of_all_of_them():
    assert containers_kib(Tasks(), State("x", 3), 100_000) == 3 * 1024
    assert containers_kib(Tasks(Status.STOPPED), State("x", 0), 100_000) == 0


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (Tasks(status=Status.STOPPED), "container-0 was to wait, and is stopped"),
        (Tasks(memory=None), "does not say how much memory container-0 uses"),
        (Tasks(memory=1 << 60), "the guest has 100000 KiB, and says that its containers use"),
    ],
)
def test_a_guest_that_says_what_can_not_be_is_not_believed(tasks, message):
    with pytest.raises(AgentError, match=message):
        containers_kib(tasks, State("x", 3), 100_000)


# what programs use


@pytest.fixture
def tree():
    """A program of ours with a child that has one itself, all of which wait."""
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while len(usage.family(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        yield process
        process.communicate()  # the end of its input ends all


def test_a_program_is_it_and_all_that_it_has_started(tree):
    pids = usage.family(tree.pid)
    assert len(pids) == 3
    assert pids[0] == tree.pid
    assert os.getpid() not in pids
    each = [usage.memory_of([pid], "it") for pid in pids]
    together = usage.memory_of(pids, "it")
    assert together.rss_kib == pytest.approx(sum(one.rss_kib for one in each), rel=0.05)
    assert all(0 < one.pss_kib <= one.rss_kib for one in each)


def test_processor_time_is_the_process_s_own():
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    before = time.process_time()
    found = usage.cpu_seconds([os.getpid()], "we")
    assert before <= found <= time.process_time()
    assert usage.cpu_seconds([os.getpid(), os.getpid()], "we") >= 2 * found


def test_what_has_ended_and_what_is_not_ours_to_see_is_said(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    for look in (usage.memory_of, usage.cpu_seconds):
        with pytest.raises(CheckError, match="the server ended while it was measured"):
            look([process.pid], "the server")

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(usage, "memory", refuse)
    with pytest.raises(UserError, match="the memory of the server can't be read: Permission denied"):
        usage.memory_of([os.getpid()], "the server")


def test_the_host_is_told_as_it_is():
    host = this_host()
    assert host.processors == len(os.sched_getaffinity(0))
    assert host.memory_mib > 0
    assert host.kernel == os.uname().release
    assert load() == pytest.approx(os.getloadavg()[0], abs=0.5)
