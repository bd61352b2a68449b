"""Mutated requests in all binary interfaces (tests/fuse_fuzz.py), and that faults of the server would be found so."""

import os

import pytest

from guestforge.vhost.fs.fuse.protocol import Op
from guestforge.vhost.fs.fuse.retired import Retired
from guestforge.vhost.fs.fuse.server import OPERATIONS
from guestforge.vhost.fs.fuse.share import Share
from guestforge.vhost.fs.fuse.shown import entry
from tests.fuse_fuzz import ABIS, Mistake, fuzz

THREADS = (1, 4)
REQUESTS = int(os.environ.get("GUESTFORGE_FUZZ", "24000")) // len(ABIS) // len(THREADS)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("seed", range(len(ABIS)))
def test_no_mutated_request_harms_the_server_or_what_is_outside(tmp_path, seed, threads):
    outcomes = fuzz(tmp_path, REQUESTS, seed, threads)
    assert sum(outcomes.values()) >= REQUESTS // threads * threads
    assert outcomes["done"] > REQUESTS / 10  # the rest of the server is reached, not only its door


def follow(share, request):
    """A lookup that follows one link, to the file beside the share; no other."""
    if request.name() != b"l":
        return entry(share, request, *share.find(share.inodes.directory(request.nodeid), request.name()))
    return entry(share, request, *share.inodes.take(os.open(b"l", os.O_PATH, dir_fd=share.inodes[1].descriptor)))


def open_zero(original):
    """A server that opens a device: zero, which is harmless."""

    def reopen(share, node, flags):
        if os.fstat(node.descriptor).st_rdev == os.makedev(1, 5):
            return os.open(str(node.descriptor), os.O_RDONLY, dir_fd=share.proc)
        return original(share, node, flags)

    return reopen


def lie(*_):
    raise TypeError("a mistake")


FAULTS = {
    "follows a link": (lambda patch: patch.setitem(OPERATIONS, Op.LOOKUP, follow), "is .*/outside"),
    "opens a device": (
        lambda patch: patch.setattr(Share, "reopen", open_zero(Share.reopen)),
        "is no file or directory",
    ),
    "has a bug": (lambda patch: patch.setitem(OPERATIONS, Op.STATFS, lie), "operation 17"),
    "closes nothing": (lambda patch: patch.setattr(Retired, "close", lambda *_: None), "left open"),
    "writes more than there is room for": (
        lambda patch: patch.setitem(OPERATIONS, Op.STATFS, lambda *_: 70_000),
        "a reply of",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(tmp_path, monkeypatch, fault):
    if fault == "opens a device" and os.geteuid() != 0:
        pytest.skip("only root can make devices")
    plant, message = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(Mistake, match=message):
        fuzz(tmp_path, 4000, 1)
