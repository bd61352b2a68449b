"""Releases in a directory, and fetched from there: whole or not at all, verified, and as they were locked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY
from releases import ARCH, GUEST, VERSION, contents, going_out, release, release_of_two, same_files

from guestforge.core.errors import UserError
from guestforge.manifest import MANIFEST
from guestforge.publish.address import find_place
from guestforge.publish.fetch import fetch_release
from guestforge.release.errors import UnverifiedError
from guestforge.release.names import SUFFIX, SUMS
from guestforge.release.sign import Judge


def place(path):
    return find_place(f"file:{path}", plain=False)


def fetch(source, tmp_path, lock=None):
    return fetch_release(place(source), tmp_path / "output", Judge(), lock)


def publish(tmp_path, version, name=None):
    made = release_of_two(tmp_path, name or version, version)
    return made, place(tmp_path / "public").publish(going_out(made))


def test_a_release_is_there_under_its_version_and_as_the_latest(tmp_path):
    made, new = publish(tmp_path, "1.0.0")
    assert new
    assert same_files(made, tmp_path / "public" / "1.0.0")
    assert (tmp_path / "public" / "latest").readlink() == Path("1.0.0")
    assert not place(tmp_path / "public").publish(going_out(made))
    assert {path.name for path in (tmp_path / "public").iterdir()} == {"1.0.0", "latest"}


@pytest.mark.parametrize(
    ("versions", "latest"),
    [
        (("1.0.0", "1.1.0"), "1.1.0"),
        (("1.10.0", "1.9.1"), "1.10.0"),
        (("1.0.0", "2.0.0-rc.1"), "1.0.0"),
        (("2.0.0-rc.2", "1.0.0"), "1.0.0"),
        (("1.0.0-rc.1", "1.0.0-rc.2"), "1.0.0-rc.2"),
    ],
)
def test_the_latest_is_the_newest_that_is_for_all(tmp_path, versions, latest):
    for version in versions:
        publish(tmp_path, version)
    assert (tmp_path / "public" / "latest").readlink() == Path(latest)


def test_other_content_under_a_version_is_refused(tmp_path):
    publish(tmp_path, VERSION)
    before = sorted((tmp_path / "public" / VERSION).iterdir())
    other = release(tmp_path, "other")
    with pytest.raises(UserError, match="with other content: a version is published once"):
        place(tmp_path / "public").publish(going_out(other))
    assert sorted((tmp_path / "public" / VERSION).iterdir()) == before


def test_a_file_that_changes_while_it_is_published_is_seen(tmp_path):
    made = going_out(release(tmp_path))
    (archive,) = made.directory.glob(f"*{SUFFIX}")
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="was changed while it was published"):
        place(tmp_path / "public").publish(made)
    assert list((tmp_path / "public").iterdir()) == []


def test_what_is_called_latest_and_is_no_link_stays(tmp_path):
    (tmp_path / "public" / "latest").mkdir(parents=True)
    with pytest.raises(UserError, match="is no link: it is not ours"):
        publish(tmp_path, "1.0.0")


# Fetching


def test_what_is_fetched_is_laid_out_as_output_is(tmp_path):
    publish(tmp_path, VERSION)
    found = fetch(tmp_path / "public", tmp_path)
    assert set(found.guests) == {tmp_path / "output" / arch / GUEST for arch in (ARCH, "aarch64")}
    for arch in (ARCH, "aarch64"):
        guest = tmp_path / "output" / arch / GUEST
        files = {str(path.relative_to(guest)): path.read_bytes() for path in guest.rglob("*") if path.is_file()}
        said = contents(arch)
        assert json.loads(files.pop(MANIFEST))["release"]["version"] == VERSION
        said.pop(MANIFEST)
        assert files == said
    assert {path.name for path in (tmp_path / "output").iterdir()} == {ARCH, "aarch64"}


def test_a_release_s_own_directory_is_fetched_too(tmp_path):
    made, _ = publish(tmp_path, VERSION)
    fetch(made, tmp_path)
    assert (tmp_path / "output" / ARCH / GUEST / "kernel").is_file()


def test_what_was_fetched_before_is_replaced_whole(tmp_path):
    made, _ = publish(tmp_path, "1.0.0")
    guest = fetch(made, tmp_path).guests[0]
    (guest / "run-console.log").touch()
    later, _ = publish(tmp_path, "1.1.0")
    fetch(later, tmp_path)
    assert json.loads((guest / MANIFEST).read_text())["release"]["version"] == "1.1.0"
    assert not (guest / "run-console.log").exists()


def test_what_is_not_ours_is_not_replaced(tmp_path):
    made, _ = publish(tmp_path, VERSION)
    for there in (tmp_path / "output" / ARCH / GUEST / "thesis.tex", tmp_path / "output" / ARCH / GUEST):
        there.parent.mkdir(parents=True, exist_ok=True)
        there.touch()
        with pytest.raises(UserError, match=r"none of ours|in the way"):
            fetch(made, tmp_path)
        assert not (tmp_path / "output" / "aarch64").exists()
        there.unlink()
        if there.name == "thesis.tex":
            there.parent.rmdir()


def test_a_changed_release_is_not_laid_out(tmp_path):
    made, _ = publish(tmp_path, VERSION)
    archive = next(made.glob(f"*{SUFFIX}"))
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(UnverifiedError, match="does not verify"):
        fetch(made, tmp_path)
    assert list((tmp_path / "output").iterdir()) == []


def test_holes_are_holes_again(tmp_path):
    image = bytes(4 * 2**20) + os.urandom(65_537) + bytes(4 * 2**20)
    made = release_of_two(tmp_path, **{"System.map": image})
    fetch(made, tmp_path)
    found = tmp_path / "output" / ARCH / GUEST / "System.map"
    assert found.read_bytes() == image
    assert found.stat().st_blocks * 512 < 1_000_000


def test_a_lock_is_written_once_and_then_compared(tmp_path):
    made, _ = publish(tmp_path, "1.0.0")
    lock = tmp_path / "guests.lock"
    fetch(made, tmp_path, lock)
    said = lock.read_text()
    assert json.loads(said)["files"].keys() == {path.name for path in made.iterdir()}
    fetch(made, tmp_path, lock)
    other, _ = publish(tmp_path, "1.0.1")
    kernel = tmp_path / "output" / ARCH / GUEST / MANIFEST
    before = kernel.read_bytes()
    with pytest.raises(UserError, match=r"is not what .*guests.lock has") as caught:
        fetch(other, tmp_path, lock)
    assert "version 1.0.1; locked is 1.0.0" in caught.value.report()
    assert f"{SUMS}: it has another SHA-256" in caught.value.report()
    assert (lock.read_text(), kernel.read_bytes()) == (said, before)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"schema": 2, "version": "1", "files": {}}', '{"schema": 1, "version": "1", "files": {"a": "b"}}'],
)  # fmt: skip
def test_a_lock_that_is_none_is_told_of_before_anything_is_fetched(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with pytest.raises(UserError, match="is no lock file"):
        fetch(tmp_path / "nowhere", tmp_path, tmp_path / "lock")


@pytest.mark.parametrize("what", ["link", "pipe", "name"])
def test_what_is_no_file_of_a_release_is_not_fetched(tmp_path, what):
    made, _ = publish(tmp_path, VERSION)
    if what == "link":
        (made / "extra").symlink_to("/etc/passwd")
    elif what == "pipe":
        os.mkfifo(made / "extra")
    else:
        (made / "an extra\nfile").touch()
    with pytest.raises(UserError, match=r"is no file, or a link|no name of a release"):
        fetch(made, tmp_path)


# A file system of so many KiB; a mount namespace of its own takes it away again.
FULL = """
import subprocess, sys
from pathlib import Path
sys.path[:0] = {path!r}
from guestforge.core.errors import GuestforgeError
from guestforge.publish.fetch import fetch_release
from guestforge.publish.address import find_place
from guestforge.release.sign import Judge
source, small, kib = sys.argv[1:]
Path(small).mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + kib + "k", "none", small], check=True)
try:
    fetch_release(find_place("file:" + source, plain=False), Path(small) / "output", Judge(), None)
except GuestforgeError as e:
    print(e.exit_code, e.report())
    print("left:", [path.name for path in (Path(small) / "output").iterdir()])
else:
    print("fetched", sorted(path.name for path in (Path(small) / "output").iterdir()))
"""


@pytest.mark.parametrize("kib", [100, 450, 600, 4000])
def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, kib):
    made = release_of_two(tmp_path, **{"System.map": os.urandom(200_000)})
    argv = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", FULL.format(path=sys.path)]
    done = subprocess.run([*argv, str(made), str(tmp_path / "small"), str(kib)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if kib == 4000:
        assert done.stdout == f"fetched ['aarch64', '{ARCH}']\n"
    else:
        assert done.stdout.startswith("2 error: No space left on device")
        assert "give --output a larger disk" in done.stdout
        assert done.stdout.endswith("left: []\n")


# What users name places by


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://bucket/x", "there are file:/path, oci://host"),
        ("/srv/releases", "there are file:/path, oci://host"),
        ("file:", "names no directory"),
        ("oci://registry.example/guests", "names no tag of a registry"),
        ("oci:registry.example/guests:1", "names no tag of a registry"),
        ("oci://registry.example/../guests:1", "names no tag of a registry"),
        ("oci://registry.example/guests:1+2", "a tag takes no +"),
        ("oci://user@registry.example/guests:1", "names no tag of a registry"),
        ("github:owner", "names no repository of GitHub"),
        ("github:owner/..", "names no repository of GitHub"),
        ("file:/a\n", "is no place for releases"),
    ],
)
def test_what_names_no_place_is_told_of(text, said):
    with pytest.raises(UserError) as caught:
        find_place(text, plain=False)
    assert said in caught.value.report()


def test_a_place_that_is_not_there_is_told_of(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        fetch(tmp_path / "nowhere", tmp_path)


def invoke(*words):
    done = subprocess.run([REPOSITORY / "invoke", *map(str, words)], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


def test_the_tasks_say_what_they_did(tmp_path):
    made = release_of_two(tmp_path, version="1.0.0")
    done = invoke("publish", made, "--to", f"file:{tmp_path / 'public'}")
    assert (done.returncode, done.stderr.splitlines()[-1].endswith("public: 1.0.0")) == (0, True)
    done = invoke("fetch", f"file:{tmp_path / 'public'}", "--output", tmp_path / "out", "--lock", tmp_path / "lock")
    assert done.returncode == 0
    assert "not checked: who made it" in done.stdout
    assert (tmp_path / "lock").is_file()
    (made / SUMS).write_text("")
    done = invoke("publish", made, "--to", f"file:{tmp_path / 'public'}")
    assert (done.returncode, "does not verify" in done.stderr) == (3, True)
    done = invoke("publish", made)
    assert (done.returncode, "--to is missing" in done.stderr) == (1, True)


IMPORTED = """
import sys, tasks
from guestforge.cli import commands
names = ("guestforge.publish", "guestforge.release", "requests", "urllib3")
print([name for name in names if name in sys.modules])
from guestforge.publish.address import find_place
find_place("file:/srv", plain=False)
print([name for name in names if name in sys.modules])
find_place("oci://127.0.0.1/a:b", plain=False)
print("requests" in sys.modules)
"""


def test_a_build_does_not_import_what_publishing_needs():
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n['guestforge.publish', 'guestforge.release']\nTrue\n"
