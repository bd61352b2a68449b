"""The exercise's verdicts. The guest's part is played by a double on the host that works on the real directory."""

import pytest

from guestforge.check import exercise, fixtures
from guestforge.check.exercise import ExerciseError
from guestforge.check.hostview import SharedDirectory
from guestforge.testing.guest_double import Probe

NONCE = fixtures.new_nonce()


@pytest.fixture
def share(tmp_path, monkeypatch):
    monkeypatch.setattr(fixtures, "MANY", 20)
    probe = tmp_path / "probe"
    probe.write_bytes(b"probe")
    tree = fixtures.container_tree(NONCE, probe)
    (tmp_path / "share").mkdir()
    fixtures.write_directory(tree, tmp_path / "share")
    return tmp_path / "share", exercise.steps(NONCE, tree, "virtiofs")


def problem(share, **guest):
    root, steps = share
    view = SharedDirectory(root)
    with pytest.raises(ExerciseError) as e:
        exercise.perform(steps, Probe(root, **guest), view)
        exercise.look_back(steps, view)
    return str(e.value)


def test_true_guest_passes_at_once_and_afterwards(share):
    root, steps = share
    exercise.perform(steps, Probe(root), SharedDirectory(root))
    exercise.look_back(steps, SharedDirectory(root))


@pytest.mark.parametrize(
    ("lies", "what"),
    [
        ({"mounts": {"mounts": [{"target": "/", "fstype": "tmpfs"}]}}, "the mount"),
        ({"mounts": {"mounts": []}}, "the mount"),
        ({"mounts": {"mounts": None}}, "the mount"),
        ({("read", "/data/nonce"): {"sha256": "0" * 64}}, "content of /data/nonce"),
        ({("read", "/data/blob"): {"sha256": "0" * 64}}, "content of /data/blob"),
        ({("read", "/data/blob"): {"size": 0}}, "content of /data/blob"),
        ({("stat", "/data/nonce"): {"mode": 0o644}}, "metadata of /data/nonce"),
        ({("stat", "/data/nonce"): {"mtime": 0}}, "metadata of /data/nonce"),
        ({("stat", "/data/nonce"): {"mode": "0640"}}, "metadata of /data/nonce"),
        ({("stat", "/data/many"): {"type": "file"}}, "metadata of /data/many"),
        ({("stat", "/data/link"): {"target": "elsewhere"}}, "symbolic link"),
        ({"list": {"names": []}}, "listing"),
        ({"list": {"names": ["x"] * 20}}, "listing"),
        ({"list": {"names": {"a": 1}}}, "listing"),
        ({"list": {"names": None}}, "listing"),
        ({"write": {"sha256": "0" * 64}}, "new file"),
        ({"unlink": {"ok": False}}, "unlink"),
    ],
)
def test_wrong_answer_is_found(share, lies, what):
    message = problem(share, lies=lies)
    assert what in message
    assert "seen by the guest" in message


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("write", "no file out/written"),
        ("rename", "data/old is there"),
        ("unlink", "data/doomed is there"),
        ("truncate", "data/long holds 10000 bytes"),
        ("chmod", "data/mode has mode 0600, not 0751"),
        ("mkdir", "no directory out/directory"),
    ],
)
def test_guest_that_only_claims_to_have_done_it_is_found(share, command, what):
    message = problem(share, forgets=(command,))
    assert what in message
    assert "seen by the host" in message


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: bytes(len(data)), lambda data: data + b"x"])
def test_content_that_was_lost_after_the_guest_wrote_it_is_found(share, spoil):
    root, steps = share
    exercise.perform(steps, Probe(root), None)
    path = root / "out" / "written"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ExerciseError, match="a new file /out/written, seen by the host"):
        exercise.look_back(steps, SharedDirectory(root))


def test_content_of_another_run_is_found(share, tmp_path):
    root, _ = share
    probe = tmp_path / "probe"
    steps = exercise.steps(NONCE, fixtures.container_tree(fixtures.new_nonce(), probe), "virtiofs")
    with pytest.raises(ExerciseError, match="content of /data/nonce"):
        exercise.perform(steps, Probe(root), SharedDirectory(root))


def test_long_value_of_a_guest_is_cut(share):
    assert len(problem(share, lies={("read", "/data/nonce"): {"sha256": "x" * 100_000}})) < 500
