"""Who QEMU is on the host, and that it ends with us although it has become somebody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.arch import X86_64
from guestforge.vmm import lifeline as program
from guestforge.vmm.emulator import Emulator
from guestforge.vmm.plan import MachinePlan, Share
from guestforge.vmm.user import SERVES_FILES, TRANSIENT, User, qemu_user, transient_user, with_less_rights

ROOTS = 0x1FFFFFFFFFF
WHOLE = "         0          0 4294967295\n"
COMMAND = ("/q", "-L", "/f")


def plan(*shares):
    return MachinePlan(X86_64, "tcg", None, Path("/log"), shares=shares)


SHARED = Share("shared", Path("/shared"))


def ninth(place, owner):
    """A share that QEMU serves."""
    place.mkdir()
    os.chown(place, *owner)
    return Share(place.name, place, "virtio-9p")


@pytest.fixture
def proc(tmp_path):
    """A process as /proc tells of it: root, with all of its rights, where every user is."""

    def write(*, capabilities=ROOTS, users=WHOLE, groups=WHOLE):
        (tmp_path / "status").write_text(f"Name:\tp\nCapEff:\t{capabilities:016x}\nSeccomp:\t0\n")
        (tmp_path / "uid_map").write_text(users)
        (tmp_path / "gid_map").write_text(groups)
        return tmp_path

    return write


def test_root_gives_its_rights_up(proc):
    users = {qemu_user(plan(SHARED), proc()) for _ in range(20)}
    assert {user.uid for user in users} <= set(TRANSIENT)
    assert all(user.uid == user.gid for user in users)
    assert len(users) > 1


@pytest.mark.parametrize(
    "facts",
    [
        {"capabilities": 0},
        {"capabilities": ROOTS & ~(1 << 6)},
        {"capabilities": ROOTS & ~(1 << 7)},
        {"users": "0 1000 1\n"},
        {"groups": "0 0 61184\n"},
        {"users": "0 0 61184\n65520 65520 100\n"},
        {"users": ""},
    ],
)
def test_who_may_not_become_another_user_stays_who_it_is(proc, facts, tmp_path):
    assert transient_user(proc(**facts)) is None
    assert qemu_user(plan(), proc(**facts)) is None
    assert qemu_user(plan(ninth(tmp_path / "a", (61200, 61200))), proc(**facts)) is None


def test_directory_that_qemu_serves_is_served_as_its_owner(proc, tmp_path):
    a, b, other = (
        ninth(tmp_path / name, owner) for name, owner in (("a", (1000, 50)), ("b", (1000, 50)), ("c", (1000, 51)))
    )
    assert qemu_user(plan(SHARED, a, b), proc()) == User(1000, 50)
    assert qemu_user(plan(a, other), proc()) is None
    assert qemu_user(plan(ninth(tmp_path / "root", (0, 50))), proc()) is None


@pytest.mark.parametrize(("device", "kept"), [("virtio-9p", SERVES_FILES), ("virtio-fs", ())])
def test_qemu_that_stays_root_has_no_right_that_it_does_not_need(proc, device, kept):
    asked = plan(Share("shared", Path("/shared"), device))
    setpriv, *words = with_less_rights(asked, COMMAND, proc=proc())
    assert os.access(setpriv, os.X_OK)
    assert tuple(words[-3:]) == COMMAND
    assert words[0] == "--bounding-set=" + ",+".join(("-all", *kept))
    assert with_less_rights(asked, COMMAND, proc=proc(capabilities=0)) == COMMAND


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("QEMU emulator version 7.2.22 (Debian)", ("-runas", "61200:61201")),
        ("QEMU emulator version 9.0.1", ("-runas", "61200:61201")),
        ("QEMU emulator version 9.1.0", ("-run-with", "user=61200:61201")),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2)", ("-run-with", "user=61200:61201")),
    ],
)
def test_option_is_the_one_that_the_version_has(version, option):
    emulator = Emulator(Path("/q"), version, "installed")
    assert emulator.become(User(61200, 61201)) == option


# The lifeline


@pytest.fixture
def sleeper():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as running:
        descriptor = os.pidfd_open(running.pid)
        yield running, descriptor
        os.close(descriptor)
        running.kill()


def start(descriptor):
    argv = [sys.executable, "-I", "-S", program.__file__, str(descriptor)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=(descriptor,))


def test_end_of_the_starter_is_the_programs_end(sleeper):
    running, descriptor = sleeper
    with start(descriptor) as lifeline:
        with pytest.raises(subprocess.TimeoutExpired):
            lifeline.wait(0.3)
        assert running.poll() is None
        lifeline.stdin.close()
        assert running.wait(5) == -9
        assert lifeline.wait(5) == 0


def test_end_of_the_program_is_the_lifelines(sleeper):
    running, descriptor = sleeper
    with start(descriptor) as lifeline:
        running.kill()
        assert lifeline.wait(5) == 0
