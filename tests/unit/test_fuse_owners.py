"""Owners without root: a guest's users can use what they make, and have what is theirs. In a process of its own."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.arch import ARCHES
from guestforge.testing.fuse_client import Client, failing
from guestforge.testing.shares import NOBODY, share_of_nobody
from guestforge.vhost.fs.fuse.server import FuseServer

REPOSITORY = Path(__file__).parents[2]

PROGRAM = """
import ctypes, errno, json, os, stat, sys
from pathlib import Path
sys.path.insert(0, {repository!r})
from guestforge.arch import ARCHES
from guestforge.vhost.fs.fuse.server import FuseServer
from guestforge.testing.fuse_client import Client, FuseError
libc = ctypes.CDLL(None)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({nobody})
    os.setuid({nobody})
    libc.prctl(4, 1, 0, 0, 0)
uid, gid = os.getuid(), os.getgid()
if {namespace} and libc.unshare(0x10000000) == 0:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {{uid}} 1")
    Path("/proc/self/gid_map").write_text(f"0 {{gid}} 1")
os.umask(0)
facts = {{}}
def start():
    server = FuseServer(Path({share!r}), ARCHES["x86_64"])
    guest = Client(server, "<", "generic", uid=1000, gid=1001)
    guest.init()
    return guest
def owner(name, node=1):
    found = guest.lookup(name, node)
    about = guest.getattr(found.node)
    answers = {{(one.uid, one.gid, one.mode) for one in (found.attr, about, guest.statx(found.node))}}
    assert len(answers) == 1, answers
    return [about.uid, about.gid, stat.S_IMODE(about.mode)]
def outcome(call):
    try:
        call()
    except FuseError as e:
        return errno.errorcode[e.errno]
    return "done"
guest = start()
for mode in (0o644, 0o400, 0o000, 0o200, 0o4755):
    name = b"f%o" % mode
    made = guest.create(name, "O_RDWR", mode=mode)
    assert guest.write(made.fh, 0, b"content") == 7
    assert guest.setattr(made.node, (1 << 3) | (1 << 6), fh=made.fh, size=3).size == 3
    facts[name.decode()] = owner(name)
node = guest.mknod(b"m", stat.S_IFREG | 0o640).node
facts["m"] = owner(b"m")
for mode in (0o755, 0o555, 0o000):
    name = b"d%o" % mode
    guest.mkdir(name, mode)
    facts[name.decode()] = owner(name)
shared = guest.mkdir(b"shared").node
guest.setattr(shared, 1, mode=0o2777)
facts["set-user-ID"] = stat.S_IMODE(guest.create(b"program", "O_RDWR", mode=0o4755).attr.mode)
guest.unlink(b"program")
guest.uid, guest.gid = 1002, 1003
guest.create(b"in", "O_RDWR", node=shared, mode=0o644)
facts["in"] = owner(b"in", shared)
guest.uid, guest.gid = 0, 0
program = guest.create(b"program", "O_RDWR", mode=0o6755)
facts["given"] = outcome(lambda: guest.setattr(program.node, 2, uid=7))
facts["program"] = owner(b"program")[:1] + owner(b"program")[2:]
facts["group"] = outcome(lambda: guest.setattr(program.node, 4, gid=8)), owner(b"program")
facts["back"] = outcome(lambda: guest.setattr(guest.lookup(b"f400").node, 6, uid=9, gid=0)), owner(b"f400")
facts["node"] = outcome(lambda: guest.setattr(guest.symlink(b"l", b"x").node, 2, uid=7))
facts["fifo"] = outcome(lambda: guest.setattr(guest.mknod(b"p", stat.S_IFIFO | 0o600).node, 6, uid=7, gid=7))
facts["hidden"] = guest.listxattr(guest.lookup(b"f644").node).decode()
guest.uid, guest.gid = 1000, 1001
facts["access"] = outcome(lambda: guest.access(guest.lookup(b"f644").node, os.W_OK))
guest.uid = 1234
facts["no access"] = outcome(lambda: guest.access(guest.lookup(b"f644").node, os.W_OK))
guest = start()
facts["again"] = owner(b"f644")
print(json.dumps(facts))
"""


@pytest.fixture
def share():
    with share_of_nobody() as place:
        yield place


@pytest.mark.parametrize("namespace", [False, True])
def test_without_root_a_guests_users_own_what_they_make(share, namespace):
    text = PROGRAM.format(repository=str(REPOSITORY), share=str(share), nobody=NOBODY, namespace=namespace)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    ours = [1000, 1001]
    # what its owner may not read we can't look into without the rights that a namespace of our own gives
    unread = ours if namespace else [share.stat().st_uid, share.stat().st_gid]
    assert facts == {
        "f644": [*ours, 0o644],
        "f400": [*ours, 0o400],
        "f0": [*unread, 0],
        "f200": [*unread, 0o200],
        "f4755": [*ours, 0o755],  # it was written to
        "set-user-ID": 0o4755,
        "m": [*ours, 0o640],
        "d755": [*ours, 0o755],
        "d555": [*ours, 0o555],
        "d0": [*unread, 0],
        "in": [1002, 1001, 0o644],
        "given": "done",
        "program": [7, 0o755],  # a new owner's program is no longer one of the old one's
        "group": ["done", [7, 8, 0o755]],
        "back": ["done", [9, 0, 0o400]],
        "node": "EPERM",
        "fifo": "EPERM",
        "hidden": "",
        "access": "done",
        "no access": "EACCES",
        "again": [*ours, 0o644],
    }
    found = {path.name: path.lstat() for path in share.iterdir()}
    assert {one.st_uid for one in found.values()} == {share.stat().st_uid}
    assert {name: stat.S_IMODE(found[name].st_mode) for name in ("f400", "f0", "d555")} == {
        "f400": 0o400,
        "f0": 0,
        "d555": 0o555,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="as root owners are the host's")
def test_with_root_an_attribute_is_nobodys_owner(tmp_path):
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", "user.virtiofs.owner", b"1000:1000")
    server = FuseServer(tmp_path, ARCHES["x86_64"])
    try:
        client = Client(server, "<", "generic")
        client.init()
        assert client.lookup(b"f").attr.uid == 0
    finally:
        server.close()


def test_nobodys_number_is_refused(tmp_path):
    server = FuseServer(tmp_path, ARCHES["x86_64"])
    try:
        client = Client(server, "<", "generic", os.getuid(), os.getgid())
        client.init()
        node = client.create(b"f", "O_RDWR").node
        for valid in (2, 4, 6):
            with failing(errno.EINVAL):
                client.setattr(node, valid, uid=0xFFFF_FFFF, gid=0xFFFF_FFFF)
        for client.uid, client.gid in ((0xFFFF_FFFF, 0), (0, 0xFFFF_FFFF)):
            with failing(errno.EOVERFLOW):
                client.create(b"g", "O_RDWR")
            with failing(errno.EOVERFLOW):
                client.mkdir(b"d")
        assert [path.name for path in tmp_path.iterdir()] == ["f"]
    finally:
        server.close()
