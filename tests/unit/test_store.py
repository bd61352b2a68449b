import ctypes
import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from guestforge.core import files as files_module
from guestforge.core import sparse
from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import atomic_file, digest_tree, disk_errors, remove_tree
from guestforge.core.scratch import mark
from guestforge.core.store import FileFacts, Store, Times, key_of, now
from guestforge.manifest import Artifact, place


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def leftovers(store):
    return list((store.cache / "tmp").iterdir())


def write(text):
    return lambda path: (path / "result").write_text(text) and None


def test_made_once_then_reused(store):
    first = store.get_or_build("step", {"a": 1}, write("x"))
    second = store.get_or_build("step", {"a": 1}, lambda _: pytest.fail("made twice"))
    assert (first.reused, second.reused) == (False, True)
    assert second.path == first.path
    assert (second.path / "result").read_text() == "x"
    assert second.files == first.files == {"result": FileFacts(hashlib.sha256(b"x").hexdigest(), 1)}
    assert json.loads((second.path / "step.json").read_text())["inputs"] == {"a": 1}
    assert not leftovers(store)


def test_an_entry_knows_when_it_was_made(store, monkeypatch):
    times = iter(["2026-11-26T10:00:00Z", "2026-11-26T10:00:05Z"])
    monkeypatch.setattr("guestforge.core.store.now", lambda: next(times))
    first = store.get_or_build("step", {"a": 1}, write("x"))
    assert first.times == Times("2026-11-26T10:00:00Z", "2026-11-26T10:00:05Z")
    assert store.find("step", {"a": 1}).times == first.times
    step = first.path / "step.json"
    facts = json.loads(step.read_text())
    del facts["times"]  # as an older version has it
    step.write_text(json.dumps(facts))
    assert store.find("step", {"a": 1}).times is None


def test_the_time_is_that_of_the_world():
    assert abs(datetime.fromisoformat(now()).timestamp() - time.time()) < 5


def test_other_inputs_or_another_step_are_another_entry(store):
    entries = {
        store.get_or_build(step, inputs, write("x")).path
        for step, inputs in [("s", {"a": 1}), ("s", {"a": 2}), ("t", {"a": 1})]
    }
    assert len(entries) == 3


def test_order_of_inputs_does_not_matter():
    assert key_of("s", {"a": 1, "b": 2}) == key_of("s", {"b": 2, "a": 1})


def poison(path):
    path.write_text("y")  # as long as it was


def lengthen(path):
    path.write_text("xx")


def empty(path):
    path.write_text("")


def link(path):
    path.with_name("other").write_text("x")
    path.unlink()
    path.symlink_to("other")


@pytest.mark.parametrize("change", [poison, lengthen, empty, link, Path.unlink])
def test_a_file_that_was_changed_in_the_store_is_not_taken(store, tmp_path, change):
    made = store.get_or_build("step", {}, write("x"))
    change(made.path / "result")
    entry = store.find("step", {})
    with pytest.raises(UserError, match=f"{made.path / 'result'} in the store is not what was put there") as caught:
        entry.file("result")
    assert str(made.path) in caught.value.hint
    with pytest.raises(UserError, match="is not what was put there"):
        place(tmp_path / "out", (Artifact("agent", entry, "result"),))
    assert list(tmp_path.glob("out/*")) == []


def test_a_file_is_read_once_in_a_process(store, monkeypatch):
    entry = store.get_or_build("step", {}, write("x"))
    reads = []
    sha256 = sparse.sha256
    monkeypatch.setattr(sparse, "sha256", lambda descriptor: reads.append(descriptor) or sha256(descriptor))
    assert {entry.file("result"), store.find("step", {}).file("result")} == {entry.path / "result"}
    assert len(reads) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": []}', '{"files": {"a": {}}}', '{"files": {"a": 1}}'])
def test_a_damaged_description_of_an_entry_is_told(store, text):
    entry = store.get_or_build("step", {}, write("x"))
    (entry.path / "step.json").write_text(text)
    with pytest.raises(UserError, match=r"step\.json in the store is not what was put there"):
        store.find("step", {})


def test_failed_step_leaves_nothing(store):
    def fail(path):
        (path / "half").write_text("x")
        raise BuildError("no")

    with pytest.raises(BuildError):
        store.get_or_build("step", {}, fail)
    assert store.find("step", {}) is None
    assert not leftovers(store)
    assert store.get_or_build("step", {}, write("x")).reused is False


def test_full_disk_is_a_clear_error(store):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path / "big"))

    with pytest.raises(BuildError, match=r"No space left on device: .*big") as caught:
        store.get_or_build("step", {}, fail)
    assert "invoke clean" in caught.value.hint
    assert not leftovers(store)


def test_other_errors_of_the_system_are_not_renamed(tmp_path):
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "none").read_text()


def build_slowly(cache, started):
    def build(path):
        (path / "half").write_text("x")
        started.set()
        time.sleep(60)

    Store(cache).get_or_build("step", {}, build)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_build_leaves_the_store_whole_and_the_next_one_completes(store, number):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=build_slowly, args=(store.cache, started))
    process.start()
    assert started.wait(10)
    os.kill(process.pid, number)
    process.join()
    assert store.find("step", {}) is None
    assert store.get_or_build("step", {}, write("x")).reused is False
    assert not leftovers(store)


def test_two_builds_of_the_same_thing_make_it_once(store):
    made, entries = [], []

    def build(path):
        made.append(path)
        time.sleep(0.2)
        write("x")(path)

    threads = [threading.Thread(target=lambda: entries.append(store.get_or_build("step", {}, build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert sorted(entry.reused for entry in entries) == [False, True, True, True]


def test_many_builds_of_different_things_do_not_sweep_each_other(store):
    failures = []

    def build(number):
        def slowly(path):
            (path / "a").write_text("a")
            time.sleep(0.02)
            (path / "result").write_text("b")

        try:
            store.get_or_build("step", {"n": number}, slowly)
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=build, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not leftovers(store)


def test_atomic_file_is_the_old_one_until_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interruption_while_an_atomic_file_is_opened_leaves_nothing(tmp_path, monkeypatch):
    make = tempfile.mkstemp

    def interrupted(**named):
        made = make(**named)
        signal.raise_signal(signal.SIGINT)  # to this thread, be there others
        return made

    monkeypatch.setattr(tempfile, "mkstemp", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "file"):
        pytest.fail("it was interrupted before")
    assert list(tmp_path.iterdir()) == []


def test_digest_sees_names_contents_and_executable_bits_only(tmp_path):
    tree = tmp_path / "tree"
    (tree / "__pycache__").mkdir(parents=True)
    (tree / "a").write_text("x")
    before = digest_tree(tree)
    (tree / "__pycache__" / "a.pyc").write_text("x")
    os.utime(tree / "a", (0, 0))
    assert digest_tree(tree) == before
    (tree / "a").chmod(0o755)
    changed = digest_tree(tree)
    (tree / "a").rename(tree / "b")
    assert len({before, changed, digest_tree(tree)}) == 3


def make_files(path, count):
    for number in range(count):
        (path / str(number)).write_text("x")


@pytest.mark.parametrize(("count", "whole_system"), [(3, 0), (6, 1)])
def test_a_large_tree_is_synced_with_its_file_system(store, monkeypatch, count, whole_system):
    calls = []
    monkeypatch.setattr(files_module, "SYNC_ONE_BY_ONE", 5)
    monkeypatch.setattr(files_module, "_syncfs", lambda descriptor: calls.append(os.fstat(descriptor)) or 0)
    store.get_or_build("step", {}, lambda path: make_files(path, count))
    assert len(calls) == whole_system


def test_a_failed_sync_publishes_nothing(store, monkeypatch):
    def fail(_):
        ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr(files_module, "SYNC_ONE_BY_ONE", 5)
    monkeypatch.setattr(files_module, "_syncfs", fail)
    with pytest.raises(BuildError, match="No space left on device"):
        store.get_or_build("step", {}, lambda path: make_files(path, 6))
    assert store.find("step", {}) is None


def test_the_real_sync_of_a_file_system_works(tmp_path):
    files_module._sync_file_system(tmp_path)
    with pytest.raises(NotADirectoryError):
        files_module._sync_file_system(Path(__file__))


def test_read_only_directories_are_removed(tmp_path):
    inner = tmp_path / "tree" / "sub"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (tmp_path / "tree" / "link").symlink_to("/")
    for directory in (inner, inner.parent):
        directory.chmod(0o555)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


REMOVE = """
import os, sys
from pathlib import Path
from guestforge.core.files import remove_tree
if os.getuid() == 0:  # only now: the checkout may lie where nobody but root may look
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
tree = Path(sys.argv[1])
inner = tree / "list" / "closed"
inner.mkdir(parents=True)
(inner / "file").write_text("x")
(inner / "below").mkdir()
(tree / "link").symlink_to("/")
for directory in (inner / "below", inner, inner.parent, tree):
    directory.chmod(0)
try:
    list(tree.iterdir())
except PermissionError:
    remove_tree(tree)
"""


def test_directories_that_their_owner_may_not_list_are_removed():
    with tempfile.TemporaryDirectory() as directory:  # pytest's own directories are closed to other users
        place = Path(directory)
        place.chmod(0o777)
        env = {"PATH": os.defpath, "PYTHONPATH": str(Path(files_module.__file__).parents[2])}
        argv = [sys.executable, "-c", REMOVE, place / "tree"]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=place, env=env, check=False)
        left = list(place.iterdir())
    assert (done.returncode, done.stderr, left) == (0, "", [])


def test_what_an_older_version_holds_is_left_alone(store):
    """It locks a file in its directory and not the directory."""
    older = store.cache / "tmp" / "step-abcd1234"
    older.mkdir(parents=True)
    mark(older)
    store.get_or_build("step", {}, lambda out: (out / "file").touch())
    assert older.is_dir()


def test_what_a_killed_build_left_goes_even_where_nothing_is_to_be_made(store):
    store.get_or_build("step", {}, write("x"))
    left = store.cache / "tmp" / "step.abcd1234"
    left.mkdir()
    mark(left)
    (left.with_name("step.dcba4321")).mkdir()  # killed before it was marked
    assert Store(store.cache).get_or_build("step", {}, lambda _: pytest.fail("made twice")).reused
    assert not leftovers(store)
