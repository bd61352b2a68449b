"""The FUSE server without root, in its sandbox: in a process of its own, for there is no way back."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.testing.shares import NOBODY, share_of_nobody

REPOSITORY = Path(__file__).parents[2]

PROGRAM = """
import ctypes, errno, json, os, stat, sys
from pathlib import Path
sys.path.insert(0, {repository!r})
from guestforge.arch import ARCHES
from guestforge.vhost.fs.fuse.server import FuseServer
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.sandbox import Sandbox
from guestforge.testing.fuse_client import Client, FuseError
"".encode("unicode_escape")
share = Path({share!r})
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({nobody})
    os.setuid({nobody})
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
box = Sandbox(share, Log("box"))
box.prepare()
os.umask(0)
server = FuseServer(share, ARCHES["s390x"])
box.enter()
guest = Client(server, ">", "generic", uid=1000, gid=1000)
guest.init()
guest.mkdir(b"d", 0o750)
made = guest.create(b"f", "O_RDWR", mode=0o640)
guest.write(made.fh, 0, b"content")
guest.symlink(b"l", b"/etc/passwd")
guest.mknod(b"p", stat.S_IFIFO | 0o600)
def refused(call):
    try:
        return call() and "done"
    except FuseError as e:
        return errno.errorcode[e.errno]
print(json.dumps({{
    "device": refused(lambda: guest.mknod(b"zero", stat.S_IFCHR | 0o666, (1 << 8) | 5)),
    "give away": refused(lambda: guest.setattr(made.node, 2, uid=1000)),
    "follow": refused(lambda: guest.open(guest.lookup(b"l").node, "O_RDONLY")),
    "back": guest.read(made.fh, 0, 99).decode(),
}}))
"""


@pytest.fixture
def share():
    with share_of_nobody() as place:
        yield place


def test_what_guests_users_make_is_ours_and_nothing_more_can_be_done(share):
    text = PROGRAM.format(repository=str(REPOSITORY), share=str(share), nobody=NOBODY)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts == {"device": "EPERM", "give away": "done", "follow": "ELOOP", "back": "content"}
    found = {path.name: path.lstat() for path in share.iterdir()}
    assert {one.st_uid for one in found.values()} == {share.stat().st_uid}
    assert {name: stat.filemode(one.st_mode) for name, one in found.items()} == {
        "d": "drwxr-x---",
        "f": "-rw-r-----",
        "l": "lrwxrwxrwx",
        "p": "prw-------",
    }
