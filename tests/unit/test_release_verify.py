"""A release's directory: there whole or not at all, and any byte of it that is another one is seen."""

import contextlib
import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import (
    ARCH,
    ARCHIVE,
    CHECKOUTS,
    VERSION,
    contents,
    facts,
    packed,
    proven,
    release,
    summed,
    unverified,
    verify,
)

from guestforge.core.errors import UserError
from guestforge.release.bundle import make_bundle
from guestforge.release.documents import Refused
from guestforge.release.names import SUMS
from guestforge.release.sums import LIMIT, read_sums, sums_text


def test_a_release_verifies_and_says_what_that_does_not_show(tmp_path):
    found = verify(release(tmp_path))
    assert [manifest.arch for manifest in found.manifests.values()] == [ARCH]
    assert found.signed_by == ""
    assert found.unchecked[0].startswith("who made it: it is not signed")


def test_a_release_of_several(tmp_path):
    # the second one has the first one's reports
    guests = [proven(tmp_path / "store"), proven(tmp_path / "other", arch="s390x", files=contents())]
    assert make_bundle(guests, tmp_path / "release", 0, None, CHECKOUTS)
    unverified(tmp_path / "release", "1 file of it", "s390x.tar.zst: check/", "is about 'x86_64 minimal")


def test_what_is_there_with_the_same_content_is_left_alone(tmp_path):
    place = release(tmp_path)
    before = {path.name: path.stat().st_ino for path in place.iterdir()}
    assert not make_bundle([proven(tmp_path / "store")], place, 0, None, CHECKOUTS)
    assert {path.name: path.stat().st_ino for path in place.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"store", "release"}


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "more").touch(),
        lambda place: (place / SUMS).unlink(),
        lambda place: (place / SUMS).write_bytes(b"x"),
        lambda place: (place / "folder").mkdir(),
    ],
)
def test_what_is_there_with_other_content_is_refused_and_left_alone(tmp_path, change):
    place = release(tmp_path)
    change(place)
    before = {path.name: path.read_bytes() if path.is_file() else None for path in place.iterdir()}
    with pytest.raises(UserError, match="is there with other content"):
        make_bundle([proven(tmp_path / "store")], place, 0, None, CHECKOUTS)
    assert {path.name: path.read_bytes() if path.is_file() else None for path in place.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"store", "release"}


@pytest.mark.parametrize("put", [lambda place: place.touch(), lambda place: place.symlink_to(place.parent)])
def test_a_file_or_a_link_in_its_place_is_refused(tmp_path, put):
    (tmp_path / "there").mkdir()
    put(tmp_path / "there" / "release")
    with pytest.raises(UserError, match="release"):
        make_bundle([proven(tmp_path / "store")], tmp_path / "there" / "release", 0, None, CHECKOUTS)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["release"]


def test_an_empty_directory_gives_way(tmp_path):
    (tmp_path / "release").mkdir()
    verify(release(tmp_path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: None, "No such file"),
        (lambda place: place.touch(), "Not a directory"),
        (lambda place: place.mkdir(), f"no {SUMS}"),
    ],
)
def test_what_is_no_release_is_the_user_s_mistake(tmp_path, make, said):
    make(tmp_path / "release")
    with pytest.raises(UserError, match=said):
        verify(tmp_path / "release")


def test_more_files_than_a_release_has_are_not_read(tmp_path):
    place = release(tmp_path)
    for number in range(1001):
        (place / str(number)).touch()
    with pytest.raises(UserError, match="more than 1000 files"):
        verify(place)


def test_a_file_too_many_or_too_few_is_named(tmp_path):
    place = release(tmp_path)
    (place / "more").touch()
    (place / "\x1b[2J").touch()
    (place / "folder").mkdir()
    (place / ARCHIVE).rename(tmp_path / "away")
    unverified(place, f"more: {SUMS} does not name it", r"'\x1b[2J': ", "folder: ", f"{ARCHIVE}: missing")


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    place = release(tmp_path)
    (place / "sbom.json").write_text("{}")
    summed(place)
    unverified(place, "sbom.json: no file that this guestforge knows")


@pytest.mark.parametrize("name", [SUMS, ARCHIVE])
def test_a_link_is_no_file(tmp_path, name):
    place = release(tmp_path)
    (place / name).rename(tmp_path / "away")
    (place / name).symlink_to(tmp_path / "away")
    unverified(place, f"{name}: it is no file, or a link to one")


def test_an_archive_under_another_name_is_refused(tmp_path):
    place = release(tmp_path)
    other = ARCHIVE.replace(VERSION, "1.2.4")
    (place / ARCHIVE).rename(place / other)
    summed(place)
    unverified(place, f"{other}: ", "manifest")


def test_archives_of_two_versions_are_no_release(tmp_path):
    place = release(tmp_path)
    make_bundle([proven(tmp_path / "other", "1.2.4")], tmp_path / "two", 0, None, CHECKOUTS)
    other = ARCHIVE.replace(VERSION, "1.2.4")
    shutil.copy(tmp_path / "two" / other, place)
    summed(place)
    unverified(place, "its version is 1.2.4, and another archive's 1.2.3-rc.1+b.7")


def test_an_archive_with_the_right_sum_and_the_wrong_content_is_named(tmp_path):
    place = release(tmp_path)
    (place / ARCHIVE).write_bytes(packed([b"x" * 512]))
    summed(place)
    unverified(place, f"{ARCHIVE}: it holds no tar")


def test_sums_that_name_nothing_are_refused(tmp_path):
    place = release(tmp_path)
    for path in place.iterdir():
        path.unlink()
    summed(place)
    unverified(place, f"{SUMS}: it names no file")


def test_sums_that_say_nothing_are_all_that_is_told(tmp_path):
    place = release(tmp_path)
    (place / SUMS).write_bytes(b"nonsense\n")
    unverified(place, f"1 file of it\n\n    {SUMS}: line 1 is not a SHA-256, two blanks and a name\n")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_seen(tmp_path):
    place = release(tmp_path)
    verify(place)
    places = [(path, at) for path in sorted(place.iterdir()) for at in range(path.stat().st_size)]
    for path, at in random.sample(places, 200):
        before = path.read_bytes()
        flip(path, at)
        unverified(place)
        path.write_bytes(before)
    verify(place)


def test_a_byte_more_or_less_anywhere_is_seen(tmp_path):
    place = release(tmp_path)
    for path in sorted(place.iterdir()):
        before = path.read_bytes()
        for changed in (before + b"\n", before[:-1], b"\n" + before, before[1:], b""):
            path.write_bytes(changed)
            unverified(place)
        path.write_bytes(before)
    verify(place)


DIGEST = facts(b"")["sha256"]


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True), st.just(DIGEST)))
def test_sums_are_read_as_they_were_written(sums):
    assert read_sums(sums_text(sums)) == sums


@given(st.binary(max_size=200) | st.text("0a \nb*\\", max_size=200).map(str.encode))
def test_sums_of_any_bytes_are_ours_or_refused(data):
    with contextlib.suppress(Refused):
        assert sums_text(read_sums(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        f"{DIGEST}  ../x\n", f"{DIGEST}  /x\n", f"{DIGEST}  .x\n", f"{DIGEST}  a b\n", f"{DIGEST} *a\n", f"{DIGEST}  a",
        f"\\{DIGEST}  a\n", f"{DIGEST.upper()}  a\n", f"{DIGEST}  b\n{DIGEST}  a\n", f"{DIGEST}  a\n{DIGEST}  a\n",
        f"{DIGEST}  a\n\n", f"{DIGEST}  a\r\n", f"{DIGEST}  \u00e4\n", f"{DIGEST}  a\n" * (LIMIT // 60),
    ],
)  # fmt: skip
def test_sums_that_we_would_not_write_are_refused(text):
    with pytest.raises(Refused):
        read_sums(text.encode())
