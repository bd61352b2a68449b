"""Scratch directories: private, gone afterwards, and swept by the next run where a killed one left them."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guestforge.core import scratch
from guestforge.core.scratch import MARK, mark, scratch_directory

KEEPER = """
import sys, time
from pathlib import Path
from guestforge.core.scratch import scratch_directory
with scratch_directory("t-", Path(sys.argv[1])) as directory:
    (directory / "file").write_text("x")
    print(directory, flush=True)
    time.sleep(60)
"""


def keeper(base):
    process = subprocess.Popen([sys.executable, "-c", KEEPER, base], stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_directory_is_private_and_gone_afterwards(tmp_path):
    with scratch_directory("t-", tmp_path) as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "below").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), scratch_directory("t-", tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path):
    (tmp_path / "t-file").write_text("no directory")
    (tmp_path / "t-link").symlink_to(tmp_path)
    (tmp_path / "other-dir").mkdir()
    process, left = keeper(tmp_path)
    with process, scratch_directory("t-", tmp_path):
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert left.exists()
        with scratch_directory("t-", tmp_path):
            assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-dir", "t-file", "t-link"]


def marked(path):
    path.mkdir()
    mark(path)


def unmarked(path):
    (path / "deep" / "work").mkdir(parents=True)
    (path / "thesis.txt").write_text("years")


def empty(path):
    path.mkdir()


def half_marked(path):
    """Its maker was killed while it wrote the mark."""
    marked(path)
    os.truncate(path / MARK, 7)


def hardly_marked(path):
    half_marked(path)
    os.truncate(path / MARK, 0)


def other_mark(path):
    path.mkdir()
    (path / MARK).write_text("my own notes")


def link_as_mark(path):
    path.mkdir()
    marked(path.with_name("elsewhere"))
    (path / MARK).symlink_to(path.with_name("elsewhere") / MARK)


def pipe_as_mark(path):
    path.mkdir()
    os.mkfifo(path / MARK)


def link_to_one(path):
    marked(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def file_of_that_name(path):
    path.write_text("x")


@pytest.mark.parametrize(
    ("name", "make", "goes"),
    [
        ("t-abcdefgh", marked, True),
        ("t-a_3defgh", marked, True),
        ("t-abcdefgh", half_marked, True),
        ("t-abcdefgh", hardly_marked, True),
        ("t-precious", unmarked, False),  # mkdtemp makes such names too
        ("t-precious", other_mark, False),
        ("t-abcdefgh", empty, True),  # its maker was killed before it had marked it
        ("t-abcdefghi", empty, False),
        ("t-abcdefgh", link_as_mark, False),
        ("t-abcdefgh", pipe_as_mark, False),
        ("t-abcdefgh", link_to_one, False),
        ("t-abcdefgh", file_of_that_name, False),
        ("t-abcdefghi", marked, False),
        ("t-abcdefg", marked, False),
        ("t-ABCDEFGH", marked, False),
        ("t-abcd.fgh", marked, False),
        ("st-abcdefgh", marked, False),
        ("t-", unmarked, False),
    ],
)
def test_only_what_our_own_hand_has_marked_is_swept(tmp_path, name, make, goes):
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with scratch_directory("t-", tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == ([] if goes else before)


def test_an_empty_directory_where_others_make_some_is_theirs(tmp_path):
    tmp_path.chmod(0o755)
    empty(tmp_path / "t-abcdefgh")
    with scratch_directory("t-", tmp_path):
        pass
    assert (tmp_path / "t-abcdefgh").exists()


@pytest.mark.parametrize("moment", ["tempfile.mkdtemp", "guestforge.core.scratch.lock"])
def test_one_that_is_swept_before_it_is_marked_is_made_again(tmp_path, monkeypatch, moment):
    module, name = moment.rsplit(".", 1)
    own, removed = getattr(sys.modules[module], name), []

    def call(*args, **named):
        result = own(*args, **named)
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].rmdir()
        return result

    monkeypatch.setattr(moment, call)
    with scratch_directory("t-", tmp_path) as directory:
        assert directory not in removed
        (directory / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_directory_of_somebody_else_is_left_alone(tmp_path, monkeypatch):
    marked(tmp_path / "t-abcdefgh")
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with scratch_directory("t-", tmp_path):
        pass
    assert (tmp_path / "t-abcdefgh").exists()


def test_what_can_not_be_removed_keeps_its_mark(tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(path)

    with monkeypatch.context() as patch, scratch_directory("t-", tmp_path) as directory:
        (directory / "file").touch()
        patch.setattr(scratch, "remove", fail)
    assert sorted(path.name for path in directory.iterdir()) == [MARK, "file"]
    with scratch_directory("t-", tmp_path):
        assert not directory.exists()


def test_many_at_once_do_not_sweep_each_other(tmp_path):
    def use(_):
        for _ in range(50):
            with scratch_directory("t-", tmp_path) as directory:
                (directory / "file").write_text("x")
                assert (directory / "file").exists()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [None] * 8
    assert list(tmp_path.iterdir()) == []


def interrupted(function):
    """Return a function that is interrupted as soon as it has done its work, the first time."""
    calls = []

    def call(*args, **named):
        result = function(*args, **named)
        calls.append(args)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)  # to this thread, be there others
        return result

    return call


@pytest.mark.parametrize("moment", ["tempfile.mkdtemp", "guestforge.core.scratch.lock", "guestforge.core.scratch.mark"])
def test_an_interruption_while_it_is_made_leaves_nothing(tmp_path, monkeypatch, moment):
    module, name = moment.rsplit(".", 1)
    monkeypatch.setattr(moment, interrupted(getattr(sys.modules[module], name)))
    with pytest.raises(KeyboardInterrupt), scratch_directory("t-", tmp_path):
        pytest.fail("it was interrupted before")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_it_is_removed_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), scratch_directory("t-", tmp_path) as directory:
        for name in ("one", "two", "three"):
            (directory / name).touch()
        monkeypatch.setattr(scratch, "remove", interrupted(scratch.remove))
    assert list(tmp_path.iterdir()) == []
