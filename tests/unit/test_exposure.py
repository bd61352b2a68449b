"""Shares in which the host's other users could reach what a guest makes: with real directories, lists and mounts."""

import itertools
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from guestforge.core.errors import UserError
from guestforge.core.exposure import acts_as_root, exposed, is_real_root, refuse_exposed
from guestforge.core.scratch import scratch_directory

NOBODY = 65534
root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")


@pytest.fixture
def place():
    """A directory with nothing above it that is closed: all users get there."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def nested(place, *, owner=0, group=0, mode=0o755):
    """Make above/middle/share, of which `middle` has this owner and mode."""
    share = place / "above" / "middle" / "share"
    share.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(share.parent, owner, group)
    share.parent.chmod(mode)
    return share


def test_a_directory_that_everybody_gets_to_is_exposed_however_it_is_closed_itself(place):
    for mode in (0o777, 0o755, 0o700, 0o000):
        place.chmod(mode)
        assert f"no directory above {place} is closed" in exposed(place)
    assert exposed(Path("/")) is not None
    place.chmod(0o755)


@root_alone
@pytest.mark.parametrize("mode", [0o777, 0o755, 0o750, 0o710, 0o701, 0o700, 0o744, 0o000, 0o1700])
@pytest.mark.parametrize("owner", [0, NOBODY])
@pytest.mark.parametrize("group", [0, NOBODY])
def test_one_directory_above_that_lets_in_root_alone_is_enough(place, owner, group, mode):
    share = nested(place, owner=owner, group=group, mode=mode)
    closed = owner == 0 and not mode & 0o001 and (group == 0 or not mode & 0o010)
    assert (exposed(share) is None) == closed


def access_list(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


@root_alone
@pytest.mark.parametrize(("tag", "permissions"), list(itertools.product((USER, GROUP), range(8))))
def test_an_access_list_may_let_in_others(place, tag, permissions):
    share = nested(place, mode=0o700)
    assert exposed(share) is None
    entries = [(USER_OBJ, 7, 2**32 - 1), (GROUP_OBJ, 0, 2**32 - 1), (MASK, 7, 2**32 - 1), (OTHER, 0, 2**32 - 1)]
    entries.append((tag, permissions, NOBODY))
    os.setxattr(share.parent, "system.posix_acl_access", access_list(*sorted(entries)))
    assert share.parent.stat().st_mode & 0o001 == 0
    assert (exposed(share) is None) == (not permissions & 1)


def test_a_link_is_followed_to_where_the_directory_is(place, tmp_path):
    (tmp_path / "link").symlink_to(place)
    (place / "share").mkdir()
    assert exposed(tmp_path / "link" / "share") is not None


def test_scratch_directories_of_ours_are_closed_wherever_they_are(place, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with scratch_directory("guestforge-check-") as scratch:
        assert scratch.parent == place
        (scratch / "virtio-fs").mkdir()
        assert exposed(scratch / "virtio-fs") is None


# In a mount namespace of its own: file systems mounted with and without what makes programs and devices harmless.
MOUNTS = """
import subprocess, sys
from pathlib import Path
from guestforge.core.exposure import exposed
def mount(place, options):
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755," + options, "none", str(place)], check=True)
place = Path(sys.argv[1])
mount(place, "nosuid,nodev")
(place / "share").mkdir()
print(exposed(place), exposed(place / "share"))
mount(place / "share" / "with a blank", "nosuid,nodev")
print(exposed(place / "share"))
mount(place / "share" / "with a blank" / "inner", "nosuid")
print(exposed(place / "share"))
print(exposed(place))
mount(place / "beside", "nodev")
print(exposed(place / "beside"))
"""


def test_mounts_decide_and_those_below_too(place):
    argv = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", MOUNTS, str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["None None", "None"]
    assert [line.partition(" is mounted without ")[2] for line in lines[2:]] == ["nodev", "nodev", "nosuid"]
    assert f"{place}/share/with a blank/inner" in lines[2]


def test_refusal_names_the_directory_and_what_would_do(place):
    with pytest.raises(UserError, match=f"share {place}: ") as caught:
        refuse_exposed(place, "say please")
    assert "nosuid,nodev" in caught.value.hint
    assert caught.value.hint.endswith("say please")
    with pytest.raises(UserError, match="share /nowhere/at/all: No such file"):
        refuse_exposed(Path("/nowhere/at/all"), "")


# One directory at several places: what is closed at one may be open at another.
BINDS = """
import subprocess, sys
from pathlib import Path
from guestforge.core.exposure import exposed
def bind(source, place, *options):
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", str(source), str(place)], check=True)
    if options:
        subprocess.run(["mount", "-o", "remount,bind," + ",".join(options), str(place)], check=True)
def told(share):
    print((exposed(share) or "no directory above None is").split("no directory above ")[1].split(" is")[0])
place = Path(sys.argv[1])
closed = place / "closed"
share = closed / "share"
(share / "deep").mkdir(parents=True)
closed.chmod(0o700)
told(share)
bind(share, place / "a", "nosuid", "nodev")
told(share)
bind(share / "deep", place / "b")  # a part of it
told(share)
subprocess.run(["umount", str(place / "b")], check=True)
bind(share, place / "c d")
told(share)
subprocess.run(["umount", str(place / "c d")], check=True)
bind(place, place / "closed" / "all", "nosuid", "nodev")
told(share)
(place / "open").mkdir()
bind(place / "open", share / "inner")
told(share)
"""


def test_every_place_of_a_directory_counts(place):
    argv = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", BINDS, str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    shown = [line.replace(str(place), "PLACE") for line in done.stdout.splitlines()]
    assert shown == ["None", "None", "PLACE/b", "PLACE/c d", "None", "PLACE/open"]


def process(directory, *, users="0 0 4294967295", capabilities=0):
    (directory / "uid_map").write_text(f"{users}\n")
    (directory / "status").write_text(f"Name:\tx\nCapEff:\t{capabilities:016x}\n")
    return directory


@pytest.mark.parametrize(
    ("euid", "users", "capabilities", "expected"),
    [
        (0, "0 0 4294967295", 0, True),
        (0, "0 0 1", 0, True),  # root has made the namespace
        (0, "0 1000 1\n1 100000 65536", 0, False),
        (0, "0 1000 1", 0x1FF_FFFF_FFFF, False),
        (1000, "0 0 4294967295", 0, False),
        (1000, "0 0 4294967295", 1 << 27, True),
        (1000, "0 0 4294967295", 1 << 10, False),  # CAP_NET_BIND_SERVICE
        (1000, "1000 1000 1", 1 << 27, False),
    ],
)
def test_who_can_make_what_is_roots(tmp_path, monkeypatch, euid, users, capabilities, expected):
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    assert acts_as_root(process(tmp_path, users=users, capabilities=capabilities)) == expected


def test_root_of_a_user_namespace_has_not_all_users():
    program = "from guestforge.core.exposure import *; print(is_real_root(), acts_as_root())"
    argv = ["unshare", "--map-root-user", sys.executable, "-c", program]
    root = os.geteuid() == 0
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == f"False {root}\n"
    assert (is_real_root(), acts_as_root()) == (root, root)


def test_a_root_directory_without_a_mount_of_its_own_is_exposed(place, tmp_path):
    (process(tmp_path) / "mountinfo").write_text("1 0 0:5 / /proc rw,nosuid,nodev - proc proc rw\n")
    assert "no directory above" in exposed(place, tmp_path)
