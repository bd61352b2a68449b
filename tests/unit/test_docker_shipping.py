"""Files that go to an engine elsewhere and come back: what is sent, and what is not taken of what comes."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestforge.core.errors import BuildError
from guestforge.docker import shipping
from guestforge.docker.shipping import SENT, _packed, _require_whole, _take_over, unpack
from guestforge.project.layout import CHECKOUT


def test_what_a_task_reads_is_sent_as_ours_and_nothing_else():
    with tarfile.open(fileobj=_packed(CHECKOUT)) as tar:
        members = tar.getmembers()
    assert {member.name.split("/")[0] for member in members} - {"."} == {
        name for name in SENT if (CHECKOUT / name).exists()
    }
    assert {"guestforge/docker/shipping.py", "invoke", "rootfs/agent/go.mod"} <= {member.name for member in members}
    assert not [member.name for member in members if "__pycache__" in member.name or ".git/" in member.name]
    assert {(member.uid, member.gid, member.uname) for member in members} == {(os.geteuid(), os.getegid(), "")}
    assert (members[0].name, members[0].mode) == (".", 0o700)
    assert len(_packed(CHECKOUT).getvalue()) < 20_000_000


def packed(*members):
    """The pieces of a tar: of each member its name, and its content or what else it is to be."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as tar:
        for name, data, *more in members:
            info = tarfile.TarInfo(name)
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            info.size = len(data) if data is not None else info.size
            tar.addfile(info, io.BytesIO(data or b""))
    data = found.getvalue()
    return [data[at : at + 700] for at in range(0, len(data), 700)]


def folder(name):
    return name, None, {"type": tarfile.DIRTYPE, "mode": 0o755}


def taken(pieces, place):
    place.mkdir(exist_ok=True)
    moved = []
    unpack(pieces, place, moved.append)
    return sum(moved)


def test_files_come_as_they_were(tmp_path):
    data = os.urandom(5000)
    pieces = packed(folder("minimal"), ("minimal/kernel", data), folder("minimal/check"), ("minimal/check/x", b"y"))
    assert taken(pieces, tmp_path / "made") == 5001
    assert (tmp_path / "made" / "kernel").read_bytes() == data
    assert (tmp_path / "made" / "check" / "x").read_bytes() == b"y"


@pytest.mark.parametrize(
    "member",
    [
        ("minimal/../../x", b"x"),
        ("/etc/x", b"x"),
        ("minimal/x", None, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("minimal/x", None, {"type": tarfile.LNKTYPE, "linkname": "minimal/kernel"}),
        ("minimal/x", None, {"type": tarfile.CHRTYPE}),
        ("minimal/x", None, {"type": tarfile.FIFOTYPE}),
    ],
)
def test_what_is_no_file_of_a_guest_is_refused(tmp_path, member):
    with pytest.raises(BuildError, match="which is no file of a guest"):
        taken(packed(folder("minimal"), ("minimal/kernel", b"k"), member), tmp_path / "made")
    assert {path.name for path in tmp_path.rglob("*")} <= {"made", "kernel"}


def test_there_is_an_end_to_what_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "MAX_FILES", 3)
    with pytest.raises(BuildError, match="more than a guest can have"):
        taken(packed(*((f"m/{number}", b"") for number in range(4))), tmp_path / "one")
    monkeypatch.setattr(shipping, "MAX_SIZE", 1000)
    with pytest.raises(BuildError, match="more than a guest can have"):
        taken(packed(("m/x", bytes(1001))), tmp_path / "two")
    assert not (tmp_path / "two" / "x").exists()


def test_what_is_cut_is_told(tmp_path):
    pieces = packed(folder("minimal"), ("minimal/kernel", bytes(5000)))
    with pytest.raises(BuildError, match="is no tar, or is cut"):
        taken(pieces[:4], tmp_path / "made")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000))
def test_garbage_is_told_and_writes_nothing_elsewhere(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("garbage")
    with contextlib.suppress(BuildError):
        taken([data], place / "made")
    assert {path.name for path in place.iterdir()} <= {"made"}


def made(place, **changed):
    """What an engine made, its manifest too."""
    files = {"kernel": b"k", "rootfs.img": b"r" * 100, "check/image/report.json": b"{}"}
    artifacts = {
        name: {"sha256": hashlib.sha256(files[name]).hexdigest(), "size": len(files[name])}
        for name in ("kernel", "rootfs.img")
    }
    files["manifest.json"] = json.dumps({"artifacts": artifacts | changed}).encode()
    for name, data in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place


def test_what_is_whole_is_taken_over_and_what_was_there_is_kept(tmp_path):
    new, place = made(tmp_path / "made"), tmp_path / "place"
    _require_whole(new, "x")
    place.mkdir()
    (place / "run-console.log").write_text("mine")
    (place / "kernel").write_text("old")
    _take_over(new, place)
    assert (place / "kernel").read_bytes() == b"k"
    assert (place / "run-console.log").read_text() == "mine"
    assert json.loads((place / "manifest.json").read_text())
    assert (place / "check/image/report.json").exists()


def test_the_manifest_comes_last(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(shipping, "atomic_copy", lambda source, _: order.append(source.name))
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "manifest.json").write_text("old")
    _take_over(made(tmp_path / "made"), tmp_path / "place")
    assert order[-1] == "manifest.json"
    assert len(order) == 4
    assert not (tmp_path / "place" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda place: (place / "kernel").write_bytes(b"x"), "kernel.* is not what"),
        (lambda place: (place / "rootfs.img").unlink(), "rootfs.img.* is not what"),
        (lambda place: (place / "manifest.json").write_text("{"), "can't be read"),
        (lambda place: (place / "manifest.json").write_text("[]"), "can't be read"),
        (lambda place: (place / "manifest.json").write_text('{"artifacts": {"a": {}}}'), "can't be read"),
        (lambda place: made(place, **{"../x": {"sha256": "0" * 64, "size": 0}}), "is not what"),
    ],
)
def test_what_is_not_what_its_manifest_says_is_refused(tmp_path, how, message):
    place = made(tmp_path / "made")
    how(place)
    with pytest.raises(BuildError, match=message):
        _require_whole(place, "x86_64/minimal")


def test_what_was_made_in_part_has_no_manifest(tmp_path):
    place = made(tmp_path / "made")
    (place / "manifest.json").unlink()
    _require_whole(Path(place), "x")
