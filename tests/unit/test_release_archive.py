"""A guest's archive: the same bytes every time, and whatever is not ours refused when it is met."""

import io
import os
import resource
import subprocess
import sys
import tarfile
import time

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from releases import (
    ARCHIVE,
    CHECKOUTS,
    ROOT,
    contents,
    facts,
    manifest,
    member,
    packed,
    proven,
    read,
    release,
    report,
    tarred,
)  # fmt: skip

from guestforge.core.errors import UserError
from guestforge.core.progress import Bar
from guestforge.manifest import MANIFEST, json_text
from guestforge.release import archive, tar
from guestforge.release.archive import write_archive
from guestforge.release.bundle import make_bundle, source_date_epoch
from guestforge.release.documents import MAX_FILE, Refused, read_manifest
from guestforge.release.names import members

MIB = 1024 * 1024


def written(guest, epoch=0):
    out = io.BytesIO()
    found = write_archive(out, ROOT, guest.files, epoch, Bar("test", None, "B"))
    assert found.sha256 == facts(out.getvalue())["sha256"]
    return out.getvalue()


def test_an_archive_is_a_tar_that_others_read(tmp_path):
    files = contents()
    place = release(tmp_path, epoch=86400)
    subprocess.run(["tar", "--zstd", "-xf", place / ARCHIVE, "-C", tmp_path], check=True)
    assert {str(path.relative_to(tmp_path / ROOT)) for path in (tmp_path / ROOT).rglob("*") if path.is_file()} == set(
        files
    )
    for name, data in files.items():
        assert (tmp_path / ROOT / name).read_bytes() == data
        assert (tmp_path / ROOT / name).stat().st_mtime == 86400
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=place, check=True)


def test_the_same_files_make_the_same_bytes_with_any_number_of_threads(tmp_path, monkeypatch):
    files = contents(**{"rootfs.img": os.urandom(9 * MIB) + bytes(30 * MIB)})
    for artifact in ("initrd", "image"):
        files[f"check/{artifact}/report.json"] = b"{}"
    found = set()
    for number in (1, 2, 5):
        monkeypatch.setattr(archive, "processors", lambda number=number: number)
        monkeypatch.setattr(archive, "MAX_THREADS", 9)
        found.add(written(proven(tmp_path / str(number), files=dict(files))))
    assert len(found) == 1


def test_the_same_release_is_the_same_in_another_directory_at_another_time(tmp_path, monkeypatch):
    one = release(tmp_path / "a")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    two = release(tmp_path / "b", "elsewhere")
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }
    assert (one / ARCHIVE).read_bytes() != (release(tmp_path / "c", epoch=1) / ARCHIVE).read_bytes()


@pytest.mark.parametrize("given", ["-1", "1.5", "x", "9" * 13, str(8**11), "\u0661"])
def test_an_epoch_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH"):
        source_date_epoch()


def test_the_epoch_is_the_environment_s(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert source_date_epoch() == 0
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(8**11 - 1))
    assert source_date_epoch() == 8**11 - 1


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda data: data[:-1] + b"x"])
def test_a_file_that_changed_since_it_was_made_is_not_packed(tmp_path, change):
    guest = proven(tmp_path / "store")
    path = guest.files["initrd.img"].path
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=r"initrd\.img in the store is not what was put there"):
        make_bundle([guest], tmp_path / "release", 0, None, CHECKOUTS)
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def test_a_size_beyond_eight_gib_has_its_header():
    head = tar.header("a", 9 * 1024**3, 5)
    assert len(head) == 3 * 512
    with tarfile.open(fileobj=io.BytesIO(head + bytes(1024))) as found:
        assert found.next().size == 9 * 1024**3


def test_ours_is_read():
    assert read(packed(tarred(contents()))) == ""


def test_a_manifest_may_have_more_than_we_know():
    assert "more" in contents()[MANIFEST].decode()


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
STRANGERS = {
    "outside": (member("/etc/passwd", b"x"), "leads out of the archive"),
    "above": (member(f"{ROOT}/../../x", b"x"), "leads out of the archive"),
    "other root": (member("elsewhere/x", b"x"), "'elsewhere/x' is there, where"),
    "symlink": (member(f"{ROOT}/config", **LINK), "is a symbolic link"),
    "hard link": (member(f"{ROOT}/config", type=tarfile.LNKTYPE, linkname="x"), "is a hard link"),
    "device": (member(f"{ROOT}/config", type=tarfile.BLKTYPE), "is a device or a pipe"),
    "pipe": (member(f"{ROOT}/config", type=tarfile.FIFOTYPE), "is a device or a pipe"),
    "directory": (member(f"{ROOT}/config", type=tarfile.DIRTYPE), "is a directory"),
    "pax": (tarfile.TarInfo.create_pax_global_header({"path": "/etc/passwd"}), "is something else than a file"),
    "twice": (member(f"{ROOT}/{MANIFEST}", b"x"), "is there a second time"),
    "control": (member(f"{ROOT}/\x1b[2J", b"x"), r"x1b\[2J' is there, where"),
    "nonsense": (b"x" * 512, "there is no header where"),
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("at", [1, 5])
def test_a_member_that_is_not_ours_is_refused(name, at):
    stranger, said = STRANGERS[name]
    pieces = tarred(contents())
    with pytest.raises(Refused, match=said):
        raise Refused(read(packed([*pieces[:at], stranger, *pieces[at:]])))


@pytest.mark.parametrize("name", STRANGERS)
def test_a_member_behind_the_last_is_refused(name):
    stranger, said = STRANGERS[name]
    with pytest.raises(Refused, match=said):
        raise Refused(read(packed([*tarred(contents()), stranger])))


@pytest.mark.parametrize(
    "changes", [{"mode": 0o755}, {"mode": 0o4644}, {"uid": 1}, {"gid": 1}, {"uname": "root"}, {"mtime": 1}]
)
def test_a_header_that_is_not_ours_is_refused(changes):
    files = contents()
    pieces = tarred(files)
    pieces[3] = member(f"{ROOT}/{members()[3]}", files[members()[3]], **changes)
    assert "is not as ours" in read(packed(pieces))


def test_what_is_missing_is_named():
    pieces = tarred(contents())
    assert read(packed(pieces[:-1])) == f"{ROOT}/rootfs.img is missing"
    assert read(packed(pieces[1:])).startswith(f"'{ROOT}/System.map' is there, where {ROOT}/{MANIFEST}")
    assert read(packed([])) != ""
    assert read(b"") == "it is cut short"


def test_another_size_is_refused():
    files = contents()
    files["kernel"] += b"x"
    assert read(packed(tarred(files))) == f"{ROOT}/kernel has 281 bytes in it, and 280 by the manifest"


def test_another_content_is_refused():
    files = contents()
    for name in members()[1:]:
        wrong = {**files, name: b"x" * len(files[name])}
        assert read(packed(tarred(wrong))) == f"{name} does not have the SHA-256 that {MANIFEST} says"


def test_an_end_that_is_not_ours_is_refused():
    pieces = tarred(contents())
    end = 1024 + -(sum(map(len, pieces)) + 1024) % 10240
    assert read(packed(pieces, bytes(end))) == ""
    assert "cut short" in read(packed(pieces, bytes(end - 1)))
    assert "follows its end" in read(packed(pieces, bytes(end + 1)))
    assert read(packed(pieces, bytes(end - 1) + b"x")) == "something else than zeros is in its end"
    assert read(packed(pieces) + b"x") != ""
    assert "follows its end" in read(packed(pieces) + zstandard.ZstdCompressor().compress(b"x"))


def test_padding_that_is_not_zero_is_refused():
    pieces = tarred(contents())
    pieces[1] = pieces[1][:-1] + b"x"
    assert "is not zero" in read(packed(pieces))


def bomb(plain):
    """A large number of zeros behind some bytes, as an archive of a few KiB each GiB."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor(level=1).stream_writer(out, closefd=False) as writer:
        writer.write(plain)
        for _ in range(1024):
            writer.write(bytes(MIB))
    return out.getvalue()


def test_a_bomb_ends_early_and_costs_no_memory():
    pieces = tarred(contents())
    bombs = {"before": b"", "between": b"".join(pieces[:4]), "behind": b"".join(pieces) + bytes(1024)}
    for plain in bombs.values():
        data = bomb(plain)
        began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert read(data) != ""
        assert time.process_time() - began < 0.3  # all of its GiB takes a second
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024


def test_a_window_that_takes_much_memory_is_refused():
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    out = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as writer:
        writer.write(b"".join(tarred(contents())))
    assert "zstd" in read(out.getvalue())


def changed_manifest(change):
    files = contents()
    value = manifest(files)
    change(value)
    files[MANIFEST] = json_text(value).encode()
    return read(packed(tarred(files)))


MANIFESTS = [
    lambda m: m.update(schema=2),
    lambda m: m.pop("schema"),
    lambda m: m.update(schema="1"),
    lambda m: m.update(arch="../x"),
    lambda m: m.update(guest="other"),
    lambda m: m["release"].update(version="1.0"),
    lambda m: m["release"].update(version="1.2.4"),
    lambda m: m.pop("release"),
    lambda m: m["artifacts"].pop("kernel"),
    lambda m: m["artifacts"].update(more=m["artifacts"]["kernel"]),
    lambda m: m["release"]["checks"].pop("check/image/junit.xml"),
    lambda m: m["artifacts"]["kernel"].update(sha256="A" * 64),
    lambda m: m["artifacts"]["kernel"].update(size=-1),
    lambda m: m["artifacts"]["kernel"].update(size=MAX_FILE + 1),
    lambda m: m["artifacts"]["kernel"].update(size=1.0),
    lambda m: m["release"]["checks"]["check/image/report.json"].update(size=5 * MIB),
    lambda m: m["release"]["checks"]["check/image/console.log"].update(size=300 * MIB),
]


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_that_is_not_ours_is_refused(change):
    assert changed_manifest(change).startswith(MANIFEST)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | st.just(b"[" * 200_000))
def test_a_manifest_of_any_bytes_is_refused(data):
    with pytest.raises(Refused):
        read_manifest(data)
    assert read(packed(tarred({**contents(), MANIFEST: data})))


@given(st.integers(0, 10**9), st.binary(min_size=1, max_size=8))
def test_an_archive_with_other_bytes_anywhere_is_refused(at, data):
    plain = b"".join(tarred(contents()))
    at %= len(plain)
    changed = plain[:at] + data + plain[at + len(data) :]
    if changed == plain:
        return
    body = changed + bytes(1024 + -(len(plain) + 1024) % 10240)
    fault = read(packed([body], b""))
    # a part of the manifest that a consumer has no use for may say anything
    assert fault or plain[512 : 512 + len(contents()[MANIFEST])] != changed[512 : 512 + len(contents()[MANIFEST])]


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(data):
    assert read(data)
    assert read(packed([data]))


def changed_report(change):
    files = contents()
    value = report(files, "initrd")
    change(value)
    return read(packed(tarred(contents(**{"check/initrd/report.json": json_text(value).encode()}))))


REPORTS = [
    (lambda r: r.update(schema=2), "schema"),
    (lambda r: r.update(verdict="fail"), "its verdict is fail"),
    (lambda r: r["checks"][0].update(status="fail"), "not passed: 'kernel-up'"),
    (lambda r: r["checks"][0].update(status="skip"), "not passed: 'kernel-up'"),
    (lambda r: r.update(checks=[]), "not passed"),
    (lambda r: r["digests"].update(kernel="0" * 64), "other files"),
    (lambda r: r["digests"].pop("initrd.img"), "other files"),
    (lambda r: r.pop("digests"), "digests"),
    (lambda r: r.update(artifact="image"), "is about 'x86_64 minimal image'"),
    (lambda r: r.update(arch="s390x"), "is about 's390x minimal initrd'"),
    (lambda r: r.update(guest="debug"), "is about 'x86_64 debug initrd'"),
]


@pytest.mark.parametrize(("change", "said"), REPORTS)
def test_a_report_that_does_not_prove_these_files_is_refused(change, said):
    fault = changed_report(change)
    assert fault.startswith("check/initrd/report.json")
    assert said in fault


@pytest.mark.alone
def test_memory_does_not_go_by_the_size(tmp_path):
    """600 MiB that compress badly, written and read in a process of its own."""
    script = f"""
import os, sys
from pathlib import Path
sys.path += {[str(path) for path in sys.path]!r}
from releases import contents, peak_kib, proven, verify, facts
from guestforge.release.bundle import make_bundle
from guestforge.core.store import FileFacts
from dataclasses import replace
import hashlib, json
place = Path({str(tmp_path)!r})
block = os.urandom(1 << 20)
(place / "big").mkdir()
state = hashlib.sha256()
with (place / "big" / "System.map").open("wb") as file:
    for number in range(600):
        data = number.to_bytes(4, "little") + block[number:] + block[:number]
        file.write(data); state.update(data)
        size = file.tell()
guest = proven(place / "store")
from guestforge.release.archive import Stored
from guestforge.manifest import MANIFEST
said = json.loads(guest.files[MANIFEST])
said["artifacts"]["System.map"] = {{"sha256": state.hexdigest(), "size": size}}
files = dict(guest.files)
files["System.map"] = Stored(place / "big" / "System.map", FileFacts(state.hexdigest(), size))
files[MANIFEST] = json.dumps(said).encode()
make_bundle([replace(guest, files=files)], place / "release", 0, None, ())
verify(place / "release")
print(peak_kib() // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 256
