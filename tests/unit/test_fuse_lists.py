"""Access control lists of the host: none is offered to a guest, and no mode gives more than a list does."""

import errno
import itertools
import os
import stat
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestforge.testing.fuse_client import ROOT, failing
from guestforge.testing.shares import serving

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
UIDS, GIDS = (1000, 1001), (601, 602)


def packed(entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def acl(owner, users, group, groups, mask, other):
    """Return a list as Linux keeps it."""
    none = 0xFFFF_FFFF
    return packed(
        [
            (USER_OBJ, owner, none),
            *((USER, rights, uid) for uid, rights in sorted(users.items())),
            (GROUP_OBJ, group, none),
            *((GROUP, rights, gid) for gid, rights in sorted(groups.items())),
            (MASK, mask, none),
            (OTHER, other, none),
        ]
    )


@pytest.fixture
def share(tmp_path):
    (tmp_path / "f").write_text("secret")
    try:
        os.setxattr(tmp_path / "f", ACCESS, acl(6, {}, 4, {}, 4, 0))
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    return tmp_path


def test_a_list_is_neither_shown_nor_taken_nor_removed(share):
    (share / "d").mkdir()
    os.setxattr(share / "d", DEFAULT, acl(7, {1000: 7}, 5, {}, 7, 5))
    os.setxattr(share / "f", "user.kept", b"x")
    kept = os.getxattr(share / "f", ACCESS)
    with serving(share) as client:
        lists = (ACCESS.encode(), DEFAULT.encode(), b"system.nfs4_acl", b"system.x")
        for name, attribute in itertools.product((b"f", b"d"), lists):
            node = client.lookup(name).node
            for refused in (
                lambda node=node, name=attribute: client.getxattr(node, name),
                lambda node=node, name=attribute: client.setxattr(node, name, acl(7, {1000: 7}, 7, {}, 7, 7)),
                lambda node=node, name=attribute: client.removexattr(node, name),
            ):
                with failing(errno.EOPNOTSUPP):
                    refused()
            assert b"system." not in client.listxattr(node)
        assert client.listxattr(client.lookup(b"f").node) == b"user.kept\0"
    assert os.getxattr(share / "f", ACCESS) == kept


RIGHTS = st.integers(0, 7)
LISTS = st.tuples(
    RIGHTS, st.dictionaries(st.sampled_from(UIDS), RIGHTS), RIGHTS, st.dictionaries(st.sampled_from(GIDS), RIGHTS),
    RIGHTS, RIGHTS,
)  # fmt: skip


def may(entries, uid, gids, wanted):
    """Whether acl(5) gives a user of some groups what is wanted; the file is of user 500 and group 600."""
    owner, users, group, groups, mask, other = entries
    if uid == 500:
        return not wanted & ~owner
    if uid in users:
        return not wanted & ~(users[uid] & mask)
    matching = [rights & mask for gid, rights in {600: group, **groups}.items() if gid in gids]
    return any(not wanted & ~rights for rights in matching) if matching else not wanted & ~other


def shown(mode, uid, gids):
    """What the guest's kernel makes of a mode."""
    return (mode >> 6 if uid == 500 else mode >> 3 if 600 in gids else mode) & 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("directory", [False, True])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=LISTS)
def test_no_mode_gives_more_than_the_list(share, directory, entries):
    path = share / ("d" if directory else "f")
    if directory:
        path.mkdir(exist_ok=True)
    os.chown(path, 500, 600)
    os.setxattr(path, ACCESS, acl(*entries))
    with serving(share) as client:
        found = client.lookup(path.name.encode())
        told = {found.attr.mode, client.getattr(found.node).mode, client.statx(found.node).mode}
        told |= {attr.attr.mode for name, attr in plus(client) if name == path.name.encode()}
        assert len(told) == 1
        mode = told.pop()
    assert stat.S_IFMT(mode) == stat.S_IFMT(path.stat().st_mode)
    assert mode >> 6 & 7 == entries[0]
    for uid in (500, *UIDS, 7):
        for size in range(4):
            for gids in itertools.combinations((600, *GIDS), size):
                for wanted in range(1, 8):
                    if not wanted & ~shown(mode, uid, gids):
                        assert may(entries, uid, gids, wanted), (oct(mode), uid, gids, wanted)


def plus(client):
    fh = client.opendir()
    return [(row[4], row[0]) for row in client.readdir(fh, 0, 65536, plus=True) if row[0]]


@pytest.mark.parametrize(
    ("entries", "mode"),
    [
        ((6, {1000: 4}, 0, {}, 4, 0), 0o600),  # setfacl -m u:1000:r,g::- of a file with 0600
        ((6, {1000: 6}, 4, {}, 6, 4), 0o644),  # a list that only gives takes nothing
        ((7, {}, 5, {601: 7}, 7, 5), 0o755),
        ((6, {1000: 0}, 4, {}, 4, 4), 0o600),  # one user is denied what all others have
        ((6, {}, 4, {601: 0}, 4, 4), 0o640),
    ],
)
def test_modes_of_usual_lists(share, entries, mode):
    os.setxattr(share / "f", ACCESS, acl(*entries))
    with serving(share) as client:
        assert stat.S_IMODE(client.lookup(b"f").attr.mode) == mode


def test_a_list_that_comes_later_is_seen(share):
    os.removexattr(share / "f", ACCESS)
    (share / "f").chmod(0o644)
    os.utime(share / "f", (0, 0))
    with serving(share) as client:
        node = client.lookup(b"f").node
        for _ in range(3):
            assert stat.S_IMODE(client.getattr(node).mode) == 0o644
        os.setxattr(share / "f", ACCESS, acl(6, {1000: 4}, 0, {}, 4, 0))
        assert stat.S_IMODE(client.getattr(node).mode) == 0o600
        with failing(errno.EACCES):
            client.uid, client.gid = 7, (share / "f").stat().st_gid
            client.access(node, os.R_OK)
        os.removexattr(share / "f", ACCESS)
        (share / "f").chmod(0o640)
        assert stat.S_IMODE(client.getattr(node).mode) == 0o640


def test_the_top_of_the_share_too(share):
    share.chmod(0o700)
    os.setxattr(share, ACCESS, acl(7, {1000: 7}, 0, {}, 7, 0))
    with serving(share) as client:
        assert stat.S_IMODE(client.getattr(ROOT).mode) == 0o700


def test_a_list_that_comes_at_once_is_seen(share):
    with serving(share) as client:
        for number in range(200):  # most of them within one tick of the kernel's clock
            name = f"new{number}"
            node = client.create(name.encode(), "O_RDWR").node
            assert stat.S_IMODE(client.getattr(node).mode) == 0o644
            os.setxattr(share / name, ACCESS, acl(6, {1000: 4}, 0, {}, 4, 0))
            assert stat.S_IMODE(client.getattr(node).mode) == 0o600
