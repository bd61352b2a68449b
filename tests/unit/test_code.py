"""The digest of a step's code: an edit of one module makes just those steps stale that it has a part in."""

import shutil
from pathlib import Path

import pytest

from guestforge.arch import X86_64
from guestforge.core import code
from guestforge.core.code import NEUTRAL, ROOT, code_digest, code_files
from guestforge.core.graph import Evaluation, walk
from guestforge.core.store import Store
from guestforge.pipeline import Pipeline
from guestforge.project.options import BuildOptions, CheckOptions

SOURCE, KERNEL, PROGRAMS = "source linux-source-6.12", "kernel", ("agent", "probe")
CHECKS = ("check initrd", "check image")
ALL = {SOURCE, KERNEL, *PROGRAMS, "initrd", "image", *CHECKS}

# An edit of the module, and the steps whose code it is.
STALE = {
    "guestforge.arch": set(),
    "guestforge.agent.ttrpc": {*CHECKS},
    "guestforge.check.storages": {*CHECKS},
    "guestforge.check.junit": {*CHECKS},
    "guestforge.ci.declared": set(),
    "guestforge.core.code": set(),
    "guestforge.cli.commands": set(),
    "guestforge.conform.run": set(),
    "guestforge.core.environment": ALL,
    "guestforge.core.events": set(),
    "guestforge.core.files": ALL,
    "guestforge.cli.doctor": set(),
    "guestforge.docker.builder": set(),
    "guestforge.host.findings": set(),
    "guestforge.image.cpio": {"initrd"},
    "guestforge.image.disk": {"image"},
    "guestforge.image.ext4": {"image", *CHECKS},
    "guestforge.image.readback": {*CHECKS},
    "guestforge.install.kata": set(),
    "guestforge.core.jobserver": set(),
    "guestforge.kernel.configure": {KERNEL},
    "guestforge.kernel.dotconfig": {KERNEL, "initrd"},
    "guestforge.kernel.estimate": set(),
    "guestforge.core.progress": set(),
    "guestforge.oci.image": set(),
    "guestforge.overhead.measure": set(),
    "guestforge.project.bounds": set(),
    "guestforge.publish.http": set(),
    "guestforge.release.components": set(),
    "guestforge.cli.render": set(),
    "guestforge.rootfs.agent": {*PROGRAMS},
    "guestforge.rootfs.licences": {*PROGRAMS},
    "guestforge.rootfs.flavour": {"initrd", "image"},
    "guestforge.core.schedule": set(),
    "guestforge.sources.unpack": {SOURCE},
    "guestforge.sources.resolution": {*CHECKS},
    "guestforge.vhost.core.seccomp": {*CHECKS},
    "guestforge.vhost.fs.__main__": {*CHECKS},
    "guestforge.vhost.fs.fuse.files": {*CHECKS},
    "guestforge.vhost.vsock.__main__": {*CHECKS},
    "guestforge.vmm.lifeline": {*CHECKS},
    "guestforge.vmm.machine": {*CHECKS},
}


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """The steps of a guest and of its proof, by their names."""
    guest = Pipeline(X86_64, BuildOptions(), Evaluation(Store(tmp_path_factory.mktemp("store") / "cache")))
    proofs = [guest.check_step(name, CheckOptions()) for name in ("initrd", "image")]
    found = {step.role: step for step in walk(*guest.steps.published, guest.steps.probe, *proofs)}
    assert set(found) == ALL
    return found


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the package."""
    place = tmp_path_factory.mktemp("copy") / "guestforge"
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def files(steps, root):
    for kept in (code._sources, code._leads_to, code_files):
        kept.cache_clear()
    return {name: code_files(*step.code, root=root) for name, step in steps.items()}


@pytest.mark.parametrize("module", STALE)
def test_an_edit_makes_just_the_steps_stale_that_it_has_a_part_in(steps, copied, module):
    path = copied.parent / Path(*module.split(".")).with_suffix(".py")
    whole, before = path.read_text(), files(steps, copied)
    path.write_text(f"{whole}\nEDITED = True\n")
    after = files(steps, copied)
    path.write_text(whole)
    assert {name for name in ALL if before[name] != after[name]} == STALE[module]


def test_every_package_is_in_the_table():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"testing"}  # to which nothing leads
    assert packages == {module.split(".")[1] for module in STALE if module.count(".") >= 2}


def test_digest_is_of_the_modules_and_of_nothing_else():
    assert code_digest("guestforge.image.cpio") != code_digest("guestforge.image.disk")
    assert code_digest("guestforge.image.cpio") == code_digest("guestforge.image.cpio")


def test_what_is_neutral_is_there_and_has_a_reason():
    assert {module for module in NEUTRAL if module not in code._sources(ROOT)} == set()
    assert all(len(reason) > 10 for reason in NEUTRAL.values())


@pytest.mark.parametrize(
    "text",
    [
        "from guestforge.b import thing\n",
        "from guestforge import (\n    a,\n    b,  # it\n)\n",
        "import guestforge.b as other\n",
        "def later():\n    from guestforge.b import thing\n",
        'PROGRAM = [sys.executable, "-m", "guestforge.b"]\n',
        "from guestforge.neutral import thing\n",
        'PROGRAM = [sys.executable, "-m", "guestforge.program"]\n',
    ],
)
def test_a_module_is_found_however_it_is_named(tmp_path, monkeypatch, text):
    package = tmp_path / "guestforge"
    package.mkdir()
    texts = {
        "__init__": "", "a": text, "b": "", "c": "", "neutral": "import guestforge.b\n",
        "program/__init__": "", "program/__main__": "import guestforge.b\n",
    }  # fmt: skip
    for name, content in texts.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / f"{name}.py").write_text(content)
    monkeypatch.setattr(code, "NEUTRAL", {"guestforge": "", "guestforge.neutral": ""})
    program = ["guestforge.program", "guestforge.program.__main__"] if "program" in text else []
    assert list(code_files("guestforge.a", root=package)) == ["guestforge.a", "guestforge.b", *program]


def test_no_module_of_ours_is_an_error():
    with pytest.raises(KeyError):
        code_files("guestforge.nothing")
