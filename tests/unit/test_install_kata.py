"""What Kata's runtimes are told of a guest: options that they have, and a machine that boots it."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from installs import guest_of, release_in

from guestforge.arch import ARCHES, lookup
from guestforge.install.kata import drop_in, is_ours, machine_type, options_for, toml
from guestforge.install.places import RUNTIMES
from guestforge.project.options import ARTIFACTS

KATA = json.loads(Path(__file__).with_name("kata_options.json").read_text())
OF_RUNTIME = dict(zip((runtime.name for runtime in RUNTIMES), ("runtime", "runtime-rs"), strict=True))
DIRECTORY = Path("/opt/kata/share/kata-containers/guestforge/minimal-0")
FULL = {"kernel_args": ["quiet", "a=b c"], "memory_mib": 256}


@pytest.fixture
def guest(tmp_path):
    return lambda **release: guest_of(release_in(tmp_path / "out", **release), release.get("arch", "x86_64"))


def told(runtime, guest, booted="image", config=()):
    """What a runtime reads of its drop-in."""
    options = options_for(runtime, guest, DIRECTORY, booted, dict(config))
    return tomllib.loads(drop_in(options, guest).decode())


def names_in(table, section=""):
    """The sections of a document with the names of their options."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    if names := table.keys() - inner.keys():
        yield section, names
    for key, value in inner.items():
        yield from names_in(value, f"{section}.{key}".strip("."))


def unknown(runtime, document):
    """The options of a drop-in that its runtime has not, in its own configuration files or in what reads them."""
    own, read = (KATA[where][OF_RUNTIME[runtime.name]] for where in ("options", "read"))
    return {
        (section, name)
        for section, names in names_in(document)
        for name in names - {*own.get(section, ()), *read.get(section, ())}
    }


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("booted", ARTIFACTS)
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_a_runtime_has_every_option_that_we_use(guest, runtime, arch, booted, given):
    document = told(runtime, guest(arch=arch, boot=FULL, given=given), booted)
    assert unknown(runtime, document) == set()
    assert sum(len(names) for _, names in names_in(document)) > 8


def test_an_option_of_the_other_runtime_is_seen():
    document = {"hypervisor": {"qemu": {"kernel": "", "vm_rootfs_driver": ""}}, "agent": {"kata": {"dial_timeout": 1}}}
    go, rust = RUNTIMES
    assert unknown(go, document) == {("hypervisor.qemu", "vm_rootfs_driver")}
    assert unknown(rust, document) == {("agent.kata", "dial_timeout")}


def test_machines_are_kata_s():
    there = {lookup(name).name: kind for name, kind in KATA["machine_types"].items() if not name.startswith("riscv")}
    assert {arch.name: machine_type(arch) for arch in ARCHES.values()} == there


@pytest.mark.parametrize("booted", ARTIFACTS)
@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_over_kata_s_own_configuration_one_artifact_is_booted(guest, runtime, booted):
    """As both runtimes merge a drop-in: section by section, an option in the place of that before."""
    base = {"path": "/opt/kata/bin/qemu", "image": "/kata.img", "initrd": "", "kernel_params": "agent.https_proxy=x"}
    merged = {**base, **told(runtime, guest(), booted)["hypervisor"]["qemu"]}
    files = {"initrd": "initrd.img", "image": "rootfs.img"}
    assert [merged[name] for name in ARTIFACTS] == [
        f"{DIRECTORY}/{files[name]}" if name == booted else "" for name in ARTIFACTS
    ]
    assert merged["kernel"] == f"{DIRECTORY}/kernel"
    assert merged["kernel_params"] == base["kernel_params"]  # what others ask for stays, where a guest needs nothing


def test_a_disk_is_plugged_in_as_it_was_checked(guest):
    go, rust = RUNTIMES
    for arch, driver in (("x86_64", "virtio-blk-pci"), ("s390x", "virtio-blk-ccw")):
        one = guest(arch=arch)
        said = told(rust, one)["hypervisor"]["qemu"]
        assert (said["vm_rootfs_driver"], said["rootfs_type"]) == (driver, "ext4")
        assert told(go, one)["hypervisor"]["qemu"]["disable_image_nvdimm"] is True


@pytest.mark.parametrize(("given", "more"), [(False, ""), (True, "systemd.unified_cgroup_hierarchy=1 ")])
def test_kernel_parameters_of_the_recipe_come_after_those_that_they_replace(guest, given, more):
    said = told(RUNTIMES[0], guest(boot=FULL, given=given))
    assert said["hypervisor"]["qemu"]["kernel_params"] == f"cgroup_no_v1=all {more}quiet a=b c"
    assert ("enable_tracing" in said["agent"]["kata"]) is not given


@pytest.mark.parametrize("value", ["y", "n", None])
def test_memory_is_not_plugged_by_a_driver_that_the_kernel_lacks(guest, value):
    config = {"CONFIG_VIRTIO_MEM": value} if value else {}
    said = told(RUNTIMES[0], guest(), config=config)["hypervisor"]["qemu"]
    assert said.get("enable_virtio_mem") is (None if value == "y" else False)


def test_a_drop_in_is_known_until_it_is_changed(guest):
    one = guest()
    text = drop_in(options_for(RUNTIMES[0], one, DIRECTORY, "image", {}), one)
    assert is_ours(text)
    assert not is_ours(b"")
    for at in range(len(text)):
        assert not is_ours(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]), at
    assert not is_ours(text + b"\n")
    assert not is_ours(text[:-1])


@given(st.dictionaries(st.sampled_from(["a", "kernel_params"]), st.text() | st.booleans() | st.lists(st.text())))
def test_what_is_written_is_what_is_read(options):
    assert tomllib.loads(toml({"hypervisor.qemu": options})) == {"hypervisor": {"qemu": options}}
