"""What real guests cost this host: figures that can be true, a guest that does not boot, an interruption."""

import json
import signal
import time
from dataclasses import replace

import kubernetes_validate
import pytest
import yaml
from command import INVOKE, Running

from guestforge.arch import X86_64
from guestforge.cli import overhead as cli
from guestforge.core.errors import CheckError
from guestforge.overhead.measure import STATES, Wanted, measure
from guestforge.project.options import BuildOptions, CheckOptions, OverheadOptions
from guestforge.vmm.emulator import choose_emulator
from guestforge.vmm.virtiofs import choose_virtiofs
from guestforge.vmm.vsock import choose_vsock

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]
NO_INIT = ("init=/nothing",)


def medians(said, name):
    return [state["figures"][name]["median"] for state in said["states"]]


def test_figures_of_real_guests_can_be_true(built, scene, tmp_path):
    artifacts = built(X86_64.name)
    options = BuildOptions(arches=(X86_64,), output=tmp_path)
    asked = OverheadOptions(boots=2, idle=0.5, allow_tcg=True)
    assert cli.overhead(options, CheckOptions(accel="tcg"), asked) == 0
    scene.assert_clean()
    place = tmp_path / X86_64.name / "minimal" / "overhead"
    said = json.loads((place / "overhead.json").read_text())
    assert said["accelerator"] == "tcg"
    assert said["digests"] == artifacts.booted("image")
    programs = {"qemu", "virtio_fs"} | ({"vsock"} if choose_vsock().vsock.kind == "builtin" else set())
    for state in said["states"]:
        assert len(state["boots"]) == 2
        for boot in state["boots"]:
            assert 0 < boot["guest_used_kib"] < boot["guest_total_kib"] <= artifacts.memory_mib * 1024
            assert set(boot["programs"]) == programs
            assert all(0 < used["pss_kib"] <= used["rss_kib"] for used in boot["programs"].values())
            assert all(0 <= used["cpu_seconds_a_minute"] < 120 for used in boot["programs"].values())
            assert boot["programs"]["qemu"]["cpu_seconds_a_minute"] > 0
            assert boot["guest_used_kib"] < boot["programs"]["qemu"]["rss_kib"]
    for name in ("guest_used_kib", "qemu_pss_kib", "virtio_fs_pss_kib", "containers_kib", "host_pss_kib"):
        idle, one, ten = medians(said, name)
        assert idle < one < ten, name
    assert medians(said, "containers_kib")[0] == 0
    text = yaml.safe_load((place / "runtimeclass-x86_64.yaml").read_text())
    assert kubernetes_validate.validate(text, "1.37", strict=True)
    most = max(state["figures"]["overhead_kib"]["most"] for state in said["states"])
    assert int(text["overhead"]["podFixed"]["memory"].removesuffix("Mi")) == -(-most * 120 // (100 * 1024))


def test_a_guest_that_does_not_boot_is_named_with_its_console(built, scene, tmp_path):
    artifacts = replace(built(X86_64.name), kernel_args=NO_INIT)
    console = tmp_path / "console.log"
    server, emulator = choose_virtiofs(X86_64), choose_emulator(X86_64)
    wanted = Wanted(artifacts, "image", "tcg", server, emulator, console, idle=0.5, limit=60)
    with pytest.raises(CheckError) as caught:
        measure(wanted, STATES[1])
    assert "x86_64 image of minimal, one container: " in caught.value.message
    assert str(console) in caught.value.hint
    assert "/nothing" in caught.value.excerpt
    assert "/nothing" in console.read_text()
    scene.assert_clean()


def test_an_interruption_leaves_the_console_alone(built, scene, tmp_path):
    assert built(X86_64.name).image
    words = ("overhead", "--arch", "x86_64", "--accel", "tcg", "--output", str(tmp_path))
    running = Running(INVOKE, *words, **scene.environment)
    place = tmp_path / X86_64.name / "minimal" / "overhead"
    console, deadline = place / "console.log", time.monotonic() + 60
    while not (console.is_file() and X86_64.kernel_log_start in console.read_text(errors="replace")):
        assert time.monotonic() < deadline, running.text
        time.sleep(0.02)
    running.signal(signal.SIGINT)
    running.end().assert_told(130, "interrupted")
    assert [path.name for path in place.iterdir()] == ["console.log"]
    scene.assert_clean()
