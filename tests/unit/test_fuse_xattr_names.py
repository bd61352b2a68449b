"""A guest's attributes under the host's names: what the server may not set on the host, a guest has all the same."""

import contextlib
import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.testing.fuse_client import ROOT, failing
from guestforge.testing.shares import serving
from guestforge.vhost.fs.fuse.xattr_names import PREFIX, guest_name, host_name

MAPPED = (b"trusted.overlay.opaque", b"trusted.x", b"security.selinux", b"security.ima", b"security.capability.x")


@pytest.fixture
def client(tmp_path):
    (tmp_path / "share").mkdir()
    with serving(tmp_path / "share") as client:
        yield client


def names(client, node):
    return sorted(client.listxattr(node).split(b"\0")[:-1])


@pytest.mark.parametrize("directory", [False, True])
def test_attributes_that_only_an_administrator_has_are_kept_for_the_guest(client, tmp_path, directory):
    node = client.mkdir(b"f").node if directory else client.create(b"f", "O_RDWR").node
    host = tmp_path / "share" / "f"
    for name in MAPPED:
        client.setxattr(node, name, b"guest's " + name)
    client.setxattr(node, b"user.a", b"x")
    assert names(client, node) == sorted((*MAPPED, b"user.a"))
    for name in MAPPED:
        assert client.getxattr(node, name) == b"guest's " + name
        assert os.getxattr(host, b"user.virtiofs." + name) == b"guest's " + name
        with failing(errno.EEXIST):
            client.setxattr(node, name, b"", os.XATTR_CREATE)
    assert {name for name in os.listxattr(host) if not name.startswith("user.")} <= {"security.selinux"}
    for name in MAPPED:
        client.removexattr(node, name)
        for gone in (client.getxattr, client.removexattr):
            with failing(errno.ENODATA):
                gone(node, name)
    assert names(client, node) == [b"user.a"]


def test_names_of_the_map_itself_are_out_of_reach(client, tmp_path):
    node = client.create(b"f", "O_RDWR").node
    host = tmp_path / "share" / "f"
    client.setxattr(node, b"trusted.x", b"kept")
    os.setxattr(host, "user.virtiofs.owner", b"of the server")
    os.setxattr(host, "user.virtiofs.user.a", b"of nobody")
    for name in (b"user.virtiofs.trusted.x", b"user.virtiofs.owner", b"user.virtiofs.user.a", b"user.virtiofs."):
        with failing(errno.EPERM):
            client.setxattr(node, name, b"mine")
        with failing(errno.EPERM):
            client.removexattr(node, name)
        with failing(errno.ENODATA):
            client.getxattr(node, name)
    assert names(client, node) == [b"trusted.x"]
    assert os.getxattr(host, "user.virtiofs.owner") == b"of the server"
    assert client.getxattr(node, b"trusted.x") == b"kept"


def test_the_hosts_own_are_not_the_guests(client, tmp_path):
    node = client.create(b"f", "O_RDWR").node
    host = tmp_path / "share" / "f"
    for name in ("trusted.host", "security.host"):
        try:
            os.setxattr(host, name, b"host")
        except PermissionError:
            pytest.skip("only an administrator may set them")
        with failing(errno.ENODATA):
            client.getxattr(node, name.encode())
        with failing(errno.ENODATA):
            client.removexattr(node, name.encode())
        client.setxattr(node, name.encode(), b"guest")
        assert (client.getxattr(node, name.encode()), os.getxattr(host, name)) == (b"guest", b"host")
    assert names(client, node) == [b"security.host", b"trusted.host"]


def test_what_a_program_may_do_is_the_hosts_to_check(client, tmp_path):
    node = client.create(b"f", "O_RDWR").node
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # net_raw, struct vfs_cap_data
    try:
        client.setxattr(node, b"security.capability", capability)
    except OSError as error:
        assert error.errno == errno.EPERM
        return
    assert os.getxattr(tmp_path / "share" / "f", "security.capability") == capability
    assert names(client, node) == [b"security.capability"]
    (tmp_path / "share" / "f").write_text("changed")  # as Linux does when somebody changes a program
    assert names(client, node) == []


PARTS = (b"user", b"trusted", b"security", b"system", b"virtiofs", b"capability", b"x", b"", b".", b"posix_acl_access")


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(b".".join))
def test_what_a_guest_sets_it_sees_under_its_own_name_and_nothing_else(name):
    try:
        there = host_name(name)
    except OSError as error:
        with contextlib.suppress(OSError):
            host_name(name, reading=True)
            pytest.fail("it can be read")
        assert error.errno == (errno.EPERM if name.startswith(PREFIX) else errno.EOPNOTSUPP)
    else:
        assert host_name(name, reading=True) == there
        assert guest_name(there) == name
        assert not there.startswith((b"trusted.", b"system."))
    seen = guest_name(name)
    if seen is not None:
        assert host_name(seen) == name


def test_the_top_of_the_share_has_them_too(client):
    client.setxattr(ROOT, b"trusted.overlay.opaque", b"y")
    assert client.getxattr(ROOT, b"trusted.overlay.opaque") == b"y"
