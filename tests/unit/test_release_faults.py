"""A release appears whole or not at all: killed, interrupted or without space at any moment."""

import random
import signal
import subprocess
import sys
import time

import pytest
from releases import CHECKOUTS, proven, release, verify

from guestforge.core.errors import UserError
from guestforge.release.bundle import make_bundle

# Makes releases of files that take a while to compress, one after the other; each shall be whole when it is there.
MAKER = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from guestforge.cli.job import _guarded
from guestforge.release.bundle import make_bundle
from releases import contents, proven, release
place = Path(sys.argv[1])
files = contents(**{{"System.map": os.urandom(10_000_000)}})
guest = proven(place / "store", files=files)
print("ready", flush=True)
def body():
    for number in range(100):
        make_bundle([guest], place / "releases" / f"{{os.getpid()}}-{{number}}", 0, None, ())  # no other one's
sys.exit(_guarded(body))
"""


@pytest.fixture
def maker(tmp_path):
    """Start one that makes releases."""
    started = []

    def start():
        script = MAKER.format(path=sys.path)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def visible(place):
    return [path for path in place.iterdir() if not path.name.startswith(".")] if place.is_dir() else []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_what_is_there_after_a_signal_is_whole(tmp_path, maker, number):
    for _ in range(2):
        process = maker()
        time.sleep(random.uniform(0, 0.4))
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode in {-number, 130}
        for place in visible(tmp_path / "releases"):
            verify(place)
    if number != signal.SIGKILL:
        assert not list((tmp_path / "releases").glob(".*"))


@pytest.mark.slow
def test_what_a_killed_one_left_goes_with_the_next(tmp_path, maker):
    left = []
    while not left:
        process = maker()
        time.sleep(random.uniform(0.05, 0.2))
        process.kill()
        process.communicate()
        left = list((tmp_path / "releases").glob(".*"))
    name = left[0].name.split(".")[1]
    make_bundle([proven(tmp_path / "other")], tmp_path / "releases" / name, 0, None, CHECKOUTS)
    assert not left[0].exists()


# On a file system of so many KiB; a mount namespace of its own takes it away again.
FULL = """
import subprocess, sys
from pathlib import Path
sys.path[:0] = {path!r}
from guestforge.core.errors import GuestforgeError
from guestforge.release.bundle import make_bundle
from releases import contents, proven, verify
import os
place, kib = Path(sys.argv[1]), sys.argv[2]
guest = proven(place / "store", files=contents(**{{"System.map": os.urandom(200_000)}}))
(place / "small").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + kib + "k", "none", place / "small"], check=True)
try:
    make_bundle([guest], place / "small" / "release", 0, None, ())
except GuestforgeError as e:
    print(e.exit_code, e.report())
    print("left:", [path.name for path in (place / "small").iterdir()])
else:
    verify(place / "small" / "release")
    print("made")
"""


@pytest.mark.parametrize("kib", [4, 100, 204, 1000])
def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, kib):
    script = FULL.format(path=sys.path)
    argv = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", script, str(tmp_path), str(kib)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    if kib == 1000:
        assert done.stdout == "made\n"
    else:
        assert done.stdout.startswith("2 error: No space left on device")
        assert "give --output a larger disk" in done.stdout
        assert done.stdout.endswith("left: []\n")


def test_a_place_that_cannot_be_made_is_the_user_s_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"File exists: .*/file"):
        make_bundle([proven(tmp_path / "store")], tmp_path / "file" / "release", 0, None, CHECKOUTS)
    assert release(tmp_path)
