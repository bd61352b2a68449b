"""Which virtiofsd there is, whom it can serve, and its arguments."""

from pathlib import Path

import pytest

from guestforge.arch import ARCHES
from guestforge.vmm import virtiofsd
from guestforge.vmm.virtiofsd import Virtiofsd, find_virtiofsd, virtiofsd_argv, why_not

C = Virtiofsd(Path("/usr/lib/qemu/virtiofsd"), "C", "7.2.22")
RUST = Virtiofsd(Path("/usr/libexec/virtiofsd"), "Rust", "1.13.2")


def program(path, output, code=0):
    path.write_text(f"#!/bin/sh\necho '{output}'\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("output", "flavour", "version"),
    [
        ("virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", "C", "7.2.22"),
        ("virtiofsd 1.13.2", "Rust", "1.13.2"),
        ("virtiofsd backend 1.1.0", None, None),
    ],
)
def test_version_tells_the_flavour(tmp_path, monkeypatch, output, flavour, version):
    monkeypatch.setattr(virtiofsd, "find_tool", lambda _: None)
    found = find_virtiofsd((program(tmp_path / "virtiofsd", output),))
    assert (found and found.flavour, found and found.version) == (flavour, version)


def test_first_that_answers_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(virtiofsd, "find_tool", lambda _: None)
    broken = program(tmp_path / "broken", "virtiofsd 1.13.2", code=1)
    good = program(tmp_path / "good", "virtiofsd version 7.2.22")
    found = find_virtiofsd((tmp_path / "missing", broken, good))
    assert found == Virtiofsd(good, "C", "7.2.22")


@pytest.mark.parametrize(
    ("guest", "on", "reason"),
    [
        ("x86_64", "x86_64", None),
        ("aarch64", "aarch64", None),
        ("aarch64", "x86_64", "open flags differ from the host's"),
        ("x86_64", "aarch64", "open flags differ from the host's"),
        ("ppc64le", "x86_64", "open flags differ from the host's"),
        ("s390x", "x86_64", "byte order differs from the host's"),
        ("x86_64", "s390x", "byte order differs from the host's"),
    ],
)
def test_guests_that_it_can_serve_are_those_of_the_same_interface(guest, on, reason):
    assert why_not(ARCHES[guest], ARCHES[on]) == reason


def test_name_has_flavour_and_version():
    assert (C.name, RUST.name) == ("virtiofsd (C, QEMU 7.2.22)", "virtiofsd (Rust, 1.13.2)")


def test_arguments_of_each_flavour():
    assert virtiofsd_argv(C, Path("/a,b\\c"), 7, root=True) == [
        "/usr/lib/qemu/virtiofsd", "--fd=7", "-o", "source=/a\\,b\\\\c", "-o", "cache=none",
        "-o", "sandbox=namespace", "-o", "xattr", "-o", "no_posix_acl", "-o", "announce_submounts",
    ]  # fmt: skip
    assert virtiofsd_argv(RUST, Path("/a,b"), 7, root=True) == [
        "/usr/libexec/virtiofsd", "--fd=7", "--shared-dir=/a,b", "--cache=never",
        "--sandbox=namespace", "--xattr",
        "--xattrmap=:unsupported:all:system.posix_acl_:system.posix_acl_::ok:all:::",
        "--announce-submounts", "--log-level=warn",
    ]  # fmt: skip


def test_without_root_the_c_one_gets_a_user_namespace():
    assert virtiofsd_argv(C, Path("/a"), 7, root=False)[:3] == ["unshare", "--map-root-user", str(C.path)]
    assert virtiofsd_argv(RUST, Path("/a"), 7, root=False)[0] == str(RUST.path)
