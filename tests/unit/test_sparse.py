"""Files with holes: right whatever is where, and at the cost of their data."""

import contextlib
import errno
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestforge.core import sparse
from guestforge.core.errors import UserError
from guestforge.core.files import atomic_copy, digest_file
from guestforge.core.store import Entry, FileFacts, Store
from guestforge.manifest import MANIFEST, Artifact, manifest, place, write_json

MIB = 1024 * 1024
SIZE = 16_000_000  # of the files that are read byte by byte, in bytes; no multiple of a block
LARGE = 65536 * MIB  # the largest image that a recipe may ask for
PIECES = {
    "empty": (0, {}),
    "no hole": (5000, {0: b"a" * 5000}),
    "all hole": (SIZE, {}),
    "data at the start": (SIZE, {0: b"a"}),
    "data in the middle": (SIZE, {5_000_001: b"b" * 70_000}),
    "data at the end": (SIZE, {SIZE - 3: b"end"}),
    "much": (SIZE, {0: b"a" * 5000, 3_000_000: b"b" * 2_500_000, 9_000_000: b"c"}),
    "zeros that are written": (SIZE, {4096: bytes(3 * MIB), 8_000_000: b"d"}),
}


def make(path, size, pieces):
    with path.open("wb") as file:
        for at, data in pieces.items():
            file.seek(at)
            file.write(data)
        file.truncate(size)
    return path


def digest(path):
    with path.open("rb") as file:
        return sparse.digest(file.fileno())


@contextlib.contextmanager
def reads_at_most(count):
    """Count what this process reads and writes meanwhile, in bytes, as the kernel does."""
    before = moved()
    yield
    assert moved() - before <= count


def moved():
    rows = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(rows["rchar"]) + int(rows["wchar"])


def no_seek(*_):
    raise OSError(errno.EINVAL, "Invalid argument")


def all_data(descriptor, at, how):
    return at if how == os.SEEK_DATA else os.fstat(descriptor).st_size


def no_ranges(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


# what a file system may lack
LACKS = {
    "nothing": {},
    "SEEK_DATA": {"lseek": no_seek},
    "records of holes": {"lseek": all_data},
    "copy_file_range": {"copy_file_range": no_ranges},
}


@pytest.fixture(params=LACKS.values(), ids=LACKS)
def file_system(request, monkeypatch):
    for name, call in request.param.items():
        monkeypatch.setattr(sparse.os, name, call)


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("name", PIECES)
def test_digests_and_copies_are_right_on_any_file_system(tmp_path, name):
    size, pieces = PIECES[name]
    source = make(tmp_path / "source", size, pieces)
    content = source.read_bytes()
    assert digest_file(source) == hashlib.sha256(content).hexdigest()
    atomic_copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    dense = tmp_path / "dense"
    dense.write_bytes(content)
    assert digest(source) == digest(tmp_path / "copy") == digest(dense)


@pytest.mark.parametrize("name", PIECES)
def test_a_copy_keeps_holes(tmp_path, name):
    size, pieces = PIECES[name]
    atomic_copy(make(tmp_path / "source", size, pieces), tmp_path / "copy")
    kept = (tmp_path / "copy").stat().st_blocks * 512
    assert kept <= sum(len(data) + 3 * 4096 for data in pieces.values())


def test_the_digest_is_that_of_sha256sum(tmp_path):
    path = make(tmp_path / "file", 200 * MIB, {1000: b"x", 150 * MIB: b"y" * 9000})
    assert digest_file(path) == subprocess.check_output(["sha256sum", path]).split()[0].decode()


@given(
    size=st.integers(0, 40_000),
    pieces=st.dictionaries(st.integers(0, 39_999), st.binary(min_size=1, max_size=5000), max_size=4),
    at=st.integers(0, 39_999),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_has_one_digest_and_a_byte_changes_it(tmp_path, size, pieces, at):
    path = make(tmp_path / "file", size, pieces)
    content = path.read_bytes()
    before = digest(path)
    path.write_bytes(content)
    assert digest(path) == before
    assert digest_file(path) == hashlib.sha256(content).hexdigest()
    if at < size:
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert digest(path) != before
    make(path, size + 1, pieces)
    assert digest(path) != before


@pytest.mark.parametrize("where", [0, LARGE // 2, LARGE - 5000, None])
def test_a_large_image_is_copied_verified_and_placed_at_the_cost_of_its_data(tmp_path, where):
    path = tmp_path / "entry" / "rootfs.img"
    path.parent.mkdir()
    make(path, LARGE, {} if where is None else {where: b"x" * 5000})
    facts = FileFacts("0" * 64, LARGE, digest(path))  # nobody may need the SHA-256, which takes a minute
    entry = Entry(path.parent, "image", "key", {}, {path.name: facts}, reused=True)
    artifacts = (Artifact(path.name, entry, path.name),)
    with reads_at_most(MIB):
        place(tmp_path / "out", artifacts)
    made = (tmp_path / "out" / path.name).stat()
    assert made.st_size == LARGE
    assert made.st_blocks * 512 <= MIB
    with reads_at_most(MIB):
        assert place(tmp_path / "out", artifacts) == {path.name: facts}
    assert (tmp_path / "out" / path.name).stat().st_ino == made.st_ino  # it was not written again


def test_a_file_with_holes_is_made_read_and_kept_at_the_cost_of_its_data(tmp_path):
    store, size = Store(tmp_path / "cache"), 256 * MIB
    with reads_at_most(MIB):
        entry = store.get_or_build("step", {}, lambda made: make(made / "image", size, {size // 2: b"x"}))
        assert store.find("step", {}).file("image").stat().st_size == size
        place(tmp_path / "out", (Artifact("image", entry, "image"),))
    assert entry.files["image"].sha256 == hashlib.sha256((entry.path / "image").read_bytes()).hexdigest()
    write_json(tmp_path / "out" / MANIFEST, manifest({"image": entry.files["image"]}, {}, {}))
    said = json.loads((tmp_path / "out" / "manifest.json").read_text())["artifacts"]["image"]
    assert said == {"sha256": entry.files["image"].sha256, "size": size}


@pytest.mark.parametrize("at", [0, 5 * MIB, 8 * MIB - 1])
def test_a_file_with_holes_that_was_changed_is_not_taken(tmp_path, at):
    store = Store(tmp_path / "cache")
    entry = store.get_or_build("step", {}, lambda made: make(made / "image", 8 * MIB, {5 * MIB: b"x"}))
    assert entry.files["image"].data
    with (entry.path / "image").open("r+b") as file:
        file.seek(at)
        file.write(b"y")
    with pytest.raises(UserError, match="is not what was put there"):
        store.find("step", {}).file("image")
