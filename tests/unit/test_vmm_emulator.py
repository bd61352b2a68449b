"""Which QEMU runs a guest: the host's, or a newer one from a Debian archive of our own, really fetched."""

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from guestforge.arch import AARCH64, ARCHES, X86_64, host
from guestforge.core.errors import UserError
from guestforge.sources import resolution
from guestforge.sources.hostapt import Mirror
from guestforge.testing.debian_archive import Archive, Key
from guestforge.testing.runtimes import nowhere
from guestforge.vmm import emulator
from guestforge.vmm.emulator import DIRECT_READS, FIRMWARE, Emulator, choose_emulator, installed_emulator, untrusted
from guestforge.vmm.plan import MachinePlan, Share

DEBIAN = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"
SHARE = Share("kataShared", Path("/shared"))
DISK_SHARE = Share("nine", Path("/ninth"), "virtio-9p")


def script(version):
    return f"#!/bin/sh\necho '{version}'\n"


@pytest.fixture(scope="module")
def key(open_place):
    made = Key(open_place / "good")
    yield made
    made.close()


@pytest.fixture
def debian(tmp_path, open_place, key, monkeypatch):
    """A host with bookworm, whose mirror has these versions of QEMU in backports."""

    def publish(version):
        archive = Archive(open_place / tmp_path.name, "bookworm-backports")
        for arch in ARCHES.values():
            files = {f"usr/bin/{arch.qemu}": script(version).encode()}
            archive.add(tmp_path, arch.backports_qemu, "1:10", host().debian, files)
        archive.add(tmp_path, FIRMWARE, "1:10", "all", {"usr/share/qemu/slof.bin": b"x"})
        archive.publish(key)
        mirror = Mirror(archive.uri, {"Signed-By": str(key.keyring)})
        monkeypatch.setattr(resolution, "debian_mirror", lambda _: mirror)

    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path / "cache"))
    emulator._newer.cache_clear()
    yield publish
    emulator._newer.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a QEMU for every architecture, which says a version."""

    def run(version):
        (tmp_path / "bin").mkdir(exist_ok=True)
        for arch in ARCHES.values():
            (tmp_path / "bin" / arch.qemu).write_text(script(version))
            (tmp_path / "bin" / arch.qemu).chmod(0o755)

    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    monkeypatch.setenv("PATH", path)
    return run


@pytest.mark.parametrize(
    ("version", "forgets"),
    [
        (DEBIAN, False), ("QEMU emulator version 8.1.5", False), ("QEMU emulator version 8.2.0", True),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", True), ("QEMU emulator version 11.0", True),
        ("my own build", True),
    ],
)  # fmt: skip
def test_a_version_tells_whether_translations_are_dropped(install, version, forgets):
    install(version)
    assert {arch.name for arch in ARCHES.values() if installed_emulator(arch).forgets is not forgets} == (
        set() if forgets else {"x86_64"}  # its kernels clear pages with plain stores
    )


def test_none_installed_is_the_users_to_mend():
    with pytest.raises(UserError, match="qemu-system-aarch64 is not installed") as caught:
        choose_emulator(AARCH64, runtime=nowhere())
    assert caught.value.hint == "the package qemu-system-arm has it"


@pytest.mark.usefixtures("debian")  # without an archive that could be asked
def test_the_hosts_is_taken_where_it_is_right(install):
    install(DEBIAN)
    assert choose_emulator(X86_64).reason == "installed"
    assert choose_emulator(AARCH64, "kvm").reason == "installed"
    install("QEMU emulator version 8.2.0 of now")
    assert {choose_emulator(arch).reason for arch in ARCHES.values()} == {"installed"}


def test_a_newer_one_is_fetched_once_with_its_firmware(install, debian, open_place, tmp_path):
    install(DEBIAN)
    debian("QEMU emulator version 10.0.2")
    for arch in ARCHES.values():
        if arch is X86_64:
            continue
        found = choose_emulator(arch)
        assert (found.version, found.forgets) == ("QEMU emulator version 10.0.2", True)
        assert "from bookworm-backports: TCG runs" in found.reason
        assert found.path.is_relative_to(tmp_path / "cache" / "store")
        assert found.command == (str(found.path), "-L", str(found.firmware))
        assert (found.firmware / "slof.bin").is_file()
    (open_place / tmp_path.name).rename(tmp_path / "gone")
    emulator._newer.cache_clear()
    assert choose_emulator(AARCH64).version == "QEMU emulator version 10.0.2"


def test_where_none_is_newer_the_hosts_runs_and_is_not_trusted(install, debian, capfd):
    install(DEBIAN)
    debian("QEMU emulator version 8.0.0")
    found = choose_emulator(AARCH64)
    assert (found.version, found.forgets) == (DEBIAN, False)
    assert found.reason.endswith("a newer one can't be had: that of bookworm-backports is QEMU emulator version 8.0.0")
    assert f"warning: {DEBIAN}: TCG runs aarch64 right from QEMU 8.2 on" in "".join(capfd.readouterr())


@pytest.mark.usefixtures("debian")
@pytest.mark.parametrize("release", [{}, {"ID": "ubuntu", "VERSION_CODENAME": "jammy"}, {"ID": "debian"}])
def test_only_a_release_of_debian_has_backports(install, monkeypatch, release):
    install(DEBIAN)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    found = choose_emulator(AARCH64)
    assert (found.version, found.forgets) == (DEBIAN, False)
    assert "not a release of Debian" in found.reason


def test_what_can_not_be_trusted_is_told():
    new = Emulator(Path("/q"), "QEMU emulator version 10.0.2", "installed")
    old = replace(new, forgets=False, reason="too old")
    plan = MachinePlan(AARCH64, "tcg", Path("/k"), Path("/log"))
    assert untrusted(plan, new) == untrusted(replace(plan, shares=(DISK_SHARE,)), new) == ()
    assert untrusted(replace(plan, shares=(SHARE,)), new) == (DIRECT_READS,)
    assert untrusted(replace(plan, accelerator="kvm", shares=(SHARE,)), old) == ()
    (told,) = untrusted(plan, old)
    assert told.endswith("(too old)")
