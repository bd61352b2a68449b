"""A build on a machine that gets its emulator on the way: what is written down of it is what ran the checks."""

import json
from dataclasses import replace

import pytest

from guestforge.arch import X86_64
from guestforge.check.report import FILES as CHECKED
from guestforge.check.step import emulators
from guestforge.cli import commands
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation
from guestforge.core.need import Need
from guestforge.core.step import Step, Use
from guestforge.core.store import Store
from guestforge.kernel.step import CONFIG_COPY, FACTS, KERNEL, SYSTEM_MAP
from guestforge.pipeline import Pipeline
from guestforge.project.options import BuildOptions, CheckOptions, MakeOptions, ProofOptions
from guestforge.testing.fake_steps import fake_parts, fake_step
from guestforge.vmm.emulator import installed_emulator

FILES = {
    "kernel": (KERNEL, CONFIG_COPY, SYSTEM_MAP, FACTS), "initrd": ("initrd.img",), "image": ("rootfs.img",),
    "probe": ("probe",),
}  # fmt: skip
KERNEL_FACTS = {"release": "6", "source": {"package": "p", "version": "1"}, "compiler": "c", "linker": "l"}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The one directory in which programs are looked for."""
    monkeypatch.setattr("guestforge.core.environment.SYSTEM_PATHS", ())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def install(path, version):
    (path / X86_64.qemu).write_text(f"#!/bin/sh\necho {version}\n")
    (path / X86_64.qemu).chmod(0o755)


def test_the_emulators_version_is_that_of_now(path):
    with pytest.raises(UserError, match="not installed"):
        installed_emulator(X86_64)
    install(path, "QEMU 7")
    assert installed_emulator(X86_64).version == "QEMU 7"
    install(path, "QEMU 8.1")
    assert installed_emulator(X86_64).version == "QEMU 8.1"


def test_an_emulator_that_is_installed_for_the_checks_is_in_manifest_and_checks(tmp_path, path, monkeypatch):
    pipeline = Pipeline(X86_64, BuildOptions(output=tmp_path / "out"), Evaluation(Store(tmp_path / "cache")))
    facts = json.dumps(KERNEL_FACTS).encode()
    made = {name: fake_step(name, dict.fromkeys(files, facts)) for name, files in FILES.items()}
    pipeline.steps = replace(pipeline.steps, **made, parts=fake_parts())
    proofs = []

    def check_step(booted, _options):
        def inputs(runtime):
            proofs.append(emulators(X86_64, pipeline._emulator, runtime))
            return {}

        def make(out, *_):
            for name in CHECKED:
                (out / name).touch()

        needs = (Need("qemu", tool=X86_64.qemu),)
        return Step("check", inputs, make, (), CHECKED, "", booted, needs=needs, weight="guest")

    monkeypatch.setattr(pipeline, "check_step", check_step)
    monkeypatch.setattr(commands, "_pipelines", lambda _: [pipeline])
    monkeypatch.setattr(commands, "ensure", lambda needs: list(needs) and install(path, "QEMU 7"))
    assert commands.build(pipeline.options, MakeOptions(), CheckOptions(), ProofOptions()) == 0
    assert proofs == [["QEMU 7", "QEMU 7"]] * 2
    manifest = pipeline.output / "manifest.json"
    assert json.loads(manifest.read_text())["versions"]["qemu"] == "QEMU 7"


def test_fetch_only_makes_what_comes_from_elsewhere_and_leaves_the_output_alone(tmp_path, monkeypatch):
    (tmp_path / "file").touch()  # where nothing can be written
    options = BuildOptions(output=tmp_path / "file" / "out")
    pipeline = Pipeline(X86_64, options, Evaluation(Store(tmp_path / "cache")))
    made = {name: fake_step(name, dict.fromkeys(files, b"x")) for name, files in FILES.items()}
    source = replace(fake_step("source", {}), weight="network")
    made["kernel"] = replace(made["kernel"], uses={"source": Use(source)})
    made["probe"] = replace(made["probe"], from_elsewhere=True)
    pipeline.steps = replace(pipeline.steps, **made, parts=fake_parts())
    asked = []

    def check_step(booted, _options):
        def inputs(_):
            asked.append(booted)  # here an emulator is fetched, where the host's is too old
            return {}

        uses = {"kernel": Use(made["kernel"]), "probe": Use(made["probe"])}
        return Step("check", inputs, lambda *_: pytest.fail("booted"), (), (), "", booted, uses, weight="guest")

    monkeypatch.setattr(pipeline, "check_step", check_step)
    monkeypatch.setattr(commands, "_pipelines", lambda _: [pipeline])
    assert commands.build(pipeline.options, MakeOptions(fetch_only=True), CheckOptions(), ProofOptions()) == 0
    there = {path.name for path in (tmp_path / "cache" / "store").iterdir()}
    assert there == {"source", "probe"}
    assert sorted(asked) == ["image", "initrd"]
