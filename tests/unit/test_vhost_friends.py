"""Whose sockets a guest's connections end at, and in whose directories a device listens."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from guestforge.core.errors import UserError
from guestforge.testing.vhost_frontend import rig
from guestforge.vhost.core.sockets import Listener
from guestforge.vhost.vsock import packets

OTHER, ANOTHER = 65534, 1234
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")

LISTEN = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
sock.listen()
print("listens", flush=True)
sys.stdin.read()
"""


@contextmanager
def listener_of(uid: int, path: Path) -> Iterator[None]:
    """Have a user listen at a path, in a directory like /tmp."""
    path.parent.chmod(0o1777)
    for parent in path.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o711)
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(path), str(uid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        yield
        process.communicate()


@as_root
@pytest.mark.parametrize(("uid", "answer"), [(OTHER, packets.RST), (ANOTHER, packets.RST), (0, packets.RESPONSE)])
def test_a_guest_reaches_sockets_of_our_user_and_no_others(tmp_path: Path, uid: int, answer: int) -> None:
    with rig(tmp_path) as made, listener_of(uid, Path(f"{made.uds}_5000")):
        made.front.transmit(packets.REQUEST, (1024, 5000))
        made.front.expect(answer)
        assert bool(made.log) == (uid != 0)
        assert all(f"another user's socket (uid {uid})" in line for line in made.log)


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o702])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(UserError, match=rf"open can be written by other users \(mode 0{mode:o}\)"):
        Listener(place / "s", 1)
    assert list(place.iterdir()) == []


@as_root
@pytest.mark.parametrize(("uid", "gid", "mode"), [(OTHER, 0, 0o700), (0, OTHER, 0o770), (OTHER, OTHER, 0o1777)])
def test_a_directory_of_others_is_refused(tmp_path: Path, uid: int, gid: int, mode: int) -> None:
    place = tmp_path / "theirs"
    place.mkdir()
    os.chown(place, uid, gid)
    place.chmod(mode)
    with pytest.raises(UserError, match=r"belongs to user|can be written by other users"):
        Listener(place / "s", 1)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o770, 0o1777])
def test_a_directory_that_nobody_else_can_change_will_do(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "ours"
    place.mkdir()
    place.chmod(mode)
    with closing(Listener(place / "s", 1)) as made, socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(made.path))
