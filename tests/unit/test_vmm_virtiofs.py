"""Which virtio-fs server a guest gets, and its arguments."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from guestforge.arch import ARCHES, host
from guestforge.core.errors import UserError
from guestforge.project.options import VIRTIO_FS_SERVERS
from guestforge.vmm import virtiofs, virtiofsd
from guestforge.vmm.plan import Share
from guestforge.vmm.virtiofs import VirtioFsServer, choose_virtiofs, virtiofs_argv
from guestforge.vmm.virtiofsd import Virtiofsd

C = Virtiofsd(Path("/usr/lib/qemu/virtiofsd"), "C", "7.2.22")
SAME = "byte order and open flags are the host's"
FLAGS = "open flags differ from the host's"
ORDER = "byte order differs from the host's"


@pytest.fixture(autouse=True)
def on_x86_64(monkeypatch):
    monkeypatch.setattr(virtiofsd, "host", lambda: ARCHES["x86_64"])


@pytest.mark.parametrize(
    ("guest", "wanted", "kind", "described"),
    [
        ("x86_64", "auto", "virtiofsd", f"virtiofsd (C, QEMU 7.2.22; {SAME})"),
        ("aarch64", "auto", "builtin", f"guestforge virtio-fs ({FLAGS})"),
        ("ppc64le", "auto", "builtin", f"guestforge virtio-fs ({FLAGS})"),
        ("s390x", "auto", "builtin", f"guestforge virtio-fs ({ORDER})"),
        ("x86_64", "builtin", "builtin", "guestforge virtio-fs (asked for)"),
        ("x86_64", "virtiofsd", "virtiofsd", "virtiofsd (C, QEMU 7.2.22; asked for)"),
        ("s390x", "virtiofsd", "virtiofsd", f"virtiofsd (C, QEMU 7.2.22; asked for, though {ORDER})"),
    ],
)
def test_virtiofsd_serves_guests_of_its_own_interface_and_ours_the_rest(monkeypatch, guest, wanted, kind, described):
    monkeypatch.setattr(virtiofsd, "find_virtiofsd", lambda _: C)
    server = choose_virtiofs(ARCHES[guest], wanted)
    assert (server.kind, server.describe()) == (kind, described)
    assert server.installed == (C if kind == "virtiofsd" else None)


def test_ours_serves_where_no_virtiofsd_is_installed(monkeypatch):
    monkeypatch.setattr(virtiofsd, "find_virtiofsd", lambda _: None)
    assert choose_virtiofs(ARCHES["x86_64"]).describe() == "guestforge virtio-fs (no virtiofsd starts on this host)"
    assert choose_virtiofs(ARCHES["s390x"]).describe() == f"guestforge virtio-fs ({ORDER})"


def test_virtiofsd_that_is_asked_for_and_missing_is_the_users_error(monkeypatch):
    monkeypatch.setattr(virtiofsd, "find_virtiofsd", lambda _: None)
    with pytest.raises(UserError, match="no virtiofsd") as caught:
        choose_virtiofs(ARCHES["x86_64"], "virtiofsd")
    assert "./invoke doctor" in caught.value.hint


def test_arguments_of_each_server():
    ours = VirtioFsServer("builtin", "asked for")
    share = Share("tag", Path("/a b,c"))
    argv = [sys.executable, "-m", "guestforge.vhost.fs", "--fd=7", "--shared-dir=/a b,c", "--guest-arch=s390x"]
    assert virtiofs_argv(ours, ARCHES["s390x"], share, 7) == argv
    assert virtiofs_argv(ours, ARCHES["s390x"], replace(share, allow_exposed=True), 7) == [*argv, "--allow-exposed"]
    theirs = VirtioFsServer("virtiofsd", "asked for", C)
    assert "--fd=7" in virtiofs_argv(theirs, host(), share, 7)


def test_every_choice_has_a_name_that_users_type():
    assert set(virtiofs._CHOICES) == set(VIRTIO_FS_SERVERS)
