"""Which virtiofsd there is, whom it can serve, and its arguments."""

import errno
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from guestforge.arch import ARCHES
from guestforge.testing.fs_frontend import FsFrontEnd, message
from guestforge.testing.runtimes import nowhere
from guestforge.vmm.virtiofsd import Virtiofsd, find_virtiofsd, virtiofsd_argv, why_not

C = Virtiofsd(Path("/usr/lib/qemu/virtiofsd"), "C", "7.2.22")
RUST = Virtiofsd(Path("/usr/libexec/virtiofsd"), "Rust", "1.13.2")

LIST = "system.posix_acl_access"
# the user and group have what the mode gives, user 1000 may read: struct posix_acl_xattr_header and its entries
ACL = bytes.fromhex("02000000 01000600ffffffff 02000400e8030000 04000000ffffffff 10000400ffffffff 20000000ffffffff")
NAMES = (
    "/ok/all/security.capability/security.capability//prefix/all/trusted./user.virtiofs./"
    "/prefix/all/security./user.virtiofs.//bad/server//trusted.//bad/server//security./"
    "/bad/client/user.virtiofs.///ok/all///"
)


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
def test_version_tells_the_flavour(tmp_path, output, flavour, version):
    found = find_virtiofsd(nowhere(), (program(tmp_path / "virtiofsd", output),))
    assert (found and found.flavour, found and found.version) == (flavour, version)


def test_first_that_answers_is_taken(tmp_path):
    broken = program(tmp_path / "broken", "virtiofsd 1.13.2", code=1)
    good = program(tmp_path / "good", "virtiofsd version 7.2.22")
    found = find_virtiofsd(nowhere(), (tmp_path / "missing", broken, good))
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
    assert virtiofsd_argv(C, Path("/a,b\\c"), 7, as_we_are=True) == [
        "/usr/lib/qemu/virtiofsd", "--fd=7", "-o", "source=/a\\,b\\\\c", "-o", "cache=none",
        "-o", "sandbox=namespace", "-o", f"xattrmap={NAMES}", "-o", "no_posix_acl", "-o", "announce_submounts",
    ]  # fmt: skip
    assert virtiofsd_argv(RUST, Path("/a,b"), 7, as_we_are=True) == [
        "/usr/libexec/virtiofsd", "--fd=7", "--shared-dir=/a,b", "--cache=never",
        "--sandbox=namespace", "--xattr",
        f"--xattrmap=/unsupported/all/system.posix_acl_/system.posix_acl_/{NAMES}",
        "--announce-submounts", "--log-level=warn",
    ]  # fmt: skip


def test_without_root_the_c_one_gets_a_user_namespace():
    assert virtiofsd_argv(C, Path("/a"), 7, as_we_are=False)[:3] == ["unshare", "--map-root-user", str(C.path)]
    assert virtiofsd_argv(RUST, Path("/a"), 7, as_we_are=False)[0] == str(RUST.path)


@pytest.fixture
def installed(tmp_path):
    """The installed virtiofsd as it is started here, on a file with a list; yields the file's path and a call to it."""
    server = find_virtiofsd()
    if server is None or os.geteuid() != 0:
        pytest.skip("no virtiofsd, or no root for its sandbox")
    share = tmp_path / "share"
    share.mkdir()
    (share / "f").write_text("secret")
    os.setxattr(share / "f", "user.a", b"1")
    os.setxattr(share / "f", LIST, ACL)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as connection:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(1)
        argv = virtiofsd_argv(server, share, listener.fileno(), as_we_are=True)
        process = subprocess.Popen(argv, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
        try:
            connection.connect(str(tmp_path / "socket"))
            front = FsFrontEnd(connection, lambda: time.sleep(0.002))
            front.set_up()
            front.call(message(26, struct.pack("<4I", 7, 31, 131072, 0)))
            node = struct.unpack_from("<Q", front.call(message(1, b"f\0")), 16)[0]

            def call(opcode, body):
                reply = front.call(message(opcode, body, node=node))
                return struct.unpack_from("<Ii", reply)[1], reply[16:]

            yield share / "f", call
            front.close()
        finally:
            process.kill()
            process.wait()


def test_an_installed_one_offers_no_lists_and_keeps_other_attributes(installed):
    path, call = installed
    sizes, name = struct.pack("<2I", 4096, 0), LIST.encode() + b"\0"
    setting = struct.pack("<2I", len(ACL), 0) + name + ACL
    assert [call(*request)[0] for request in ((22, sizes + name), (21, setting), (24, name))] == [-errno.EOPNOTSUPP] * 3
    assert os.getxattr(path, LIST) == ACL
    assert call(22, sizes + b"user.a\0") == (0, b"1")
    for name in (b"trusted.overlay.opaque", b"security.x"):
        assert call(21, struct.pack("<2I", 1, 0) + name + b"\0y") == (0, b"")
        assert call(22, sizes + name + b"\0") == (0, b"y")
        assert os.getxattr(path, b"user.virtiofs." + name) == b"y"
        assert call(21, struct.pack("<2I", 1, 0) + b"user.virtiofs." + name + b"\0n")[0] == -errno.EPERM
    assert sorted(call(23, sizes)[1].split(b"\0")) == [b"", b"security.x", b"trusted.overlay.opaque", b"user.a"]
