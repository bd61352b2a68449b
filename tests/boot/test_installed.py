"""What was really built, installed for Kata: the files that a drop-in names are those that boot."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from guestforge.arch import X86_64
from guestforge.cli import install as cli
from guestforge.install.places import RUNTIMES
from guestforge.project.options import CheckOptions, InstallOptions

PATHS = ("kernel", "image", "initrd")


@pytest.fixture
def installed(pipeline, tmp_path):
    """Install an architecture's guest and return what each runtime is told of it, by the runtime's name."""

    def install(arch, artifact):
        one = pipeline(arch.name)
        for name in ("initrd", "image"):
            one.entry(one.check_step(name, CheckOptions()))  # made where `builds` has not made it
        prefix = tmp_path / f"prefix-{arch.name}"
        asked = InstallOptions(arches=(arch,), prefix=prefix, kata=True, artifact=artifact, output=tmp_path)
        cli.install(asked, CheckOptions())
        texts = {runtime.name: (prefix / runtime.drop_in).read_text() for runtime in RUNTIMES}
        return {name: tomllib.loads(text)["hypervisor"]["qemu"] for name, text in texts.items()}

    return install


@pytest.mark.boot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("artifact", ["initrd", "image"])
def test_a_guest_is_installed_as_it_was_built(arch_row, artifact, installed, built):
    digests = built(arch_row.name).digests
    wanted = {digests["kernel"], digests[{"initrd": "initrd.img", "image": "rootfs.img"}[artifact]]}
    for said in installed(arch_row, artifact).values():
        named = [Path(said[name]) for name in PATHS if said[name]]
        assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in named} == wanted


# What runtime-rs adds to the command line besides the root (src/runtime-rs/crates/hypervisor/src/kernel_param.rs), and
# the parameters of Kata's own configuration, which our drop-in leaves.
KATA_ARGS = (
    "panic=1", "systemd.unit=kata-containers.target", "systemd.mask=systemd-networkd.service",
    "systemd.mask=systemd-networkd.socket", "cgroup_no_v1=all", "systemd.unified_cgroup_hierarchy=1", "selinux=0",
)  # fmt: skip


@pytest.mark.boot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("artifact", ["initrd", "image"])
def test_what_was_installed_boots(artifact, installed, rig):
    said = installed(X86_64, artifact)["qemu-runtime-rs"]
    assert said["machine_type"] == X86_64.machine
    files = {name: Path(said[name]) for name in PATHS if said[name]}
    outcome = rig.check(artifact=artifact, kernel_args=KATA_ARGS, **files)
    assert outcome.report.verdict == "pass"
