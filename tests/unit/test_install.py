"""A guest below a prefix, as Kata's runtimes find it: whole, the old one or the new one, and nobody else's files."""

import os
import random
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from installs import CURRENT_GUEST, DATA, found_by_kata, guest_of, left_in, release_in, tree_of

from guestforge.core.errors import UserError
from guestforge.install.layout import install, uninstall
from guestforge.install.places import DROP_IN, LINKS, RUNTIMES, Place
from guestforge.manifest import MANIFEST
from guestforge.release.names import members

DROP_INS = [runtime.drop_in for runtime in RUNTIMES]


@pytest.fixture
def guest(tmp_path):
    return guest_of(release_in(tmp_path / "out"))


@pytest.fixture
def other(tmp_path):
    """A guest of another version, with other files."""
    return guest_of(release_in(tmp_path / "other", **{"System.map": b"another one"}))


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "prefix"


def test_all_files_are_there_under_kata_s_names(guest, prefix):
    install(guest, Place(prefix), None)
    folder = prefix / DATA / "guestforge" / guest.id
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(members())
    for name, file in LINKS.items():
        assert (prefix / DATA / name).read_bytes() == (folder / file).read_bytes()
    assert not (prefix / "share/defaults").exists()
    assert found_by_kata(prefix) == {CURRENT_GUEST: guest.id}


def test_drop_ins_need_none_of_kata_s_names(guest, prefix):
    install(guest, Place(prefix), "image")
    assert {path.name for path in (prefix / DATA).iterdir()} == {"guestforge"}
    assert found_by_kata(prefix) == dict.fromkeys((runtime.name for runtime in RUNTIMES), guest.id)
    assert [path.name for path in prefix.rglob("config.d/*")] == [DROP_IN] * len(RUNTIMES)


@pytest.mark.parametrize("booted", [None, "image"])
def test_a_second_run_changes_nothing(guest, prefix, booted):
    assert install(guest, Place(prefix), booted).changed
    before = tree_of(prefix)
    assert install(guest, Place(prefix), booted).changed == ()
    assert tree_of(prefix) == before


@pytest.mark.parametrize("booted", [None, "image", "initrd"])
def test_another_guest_takes_its_place_and_the_files_of_the_one_before_stay(guest, other, prefix, booted):
    install(guest, Place(prefix), booted)
    install(other, Place(prefix), booted)
    assert set(found_by_kata(prefix).values()) == {other.id}
    assert (prefix / DATA / "guestforge" / guest.id / MANIFEST).is_file()
    install(guest, Place(prefix), booted)
    assert set(found_by_kata(prefix).values()) == {guest.id}


def test_drop_ins_change_from_one_artifact_to_the_other(guest, prefix):
    for booted in ("image", "initrd"):
        install(guest, Place(prefix), booted)
        for path in DROP_INS:
            said = tomllib.loads((prefix / path).read_text())["hypervisor"]["qemu"]
            assert [name for name in ("image", "initrd") if said[name]] == [booted]


@pytest.mark.parametrize("booted", [None, "image"])
def test_everybody_may_read_it_whatever_the_umask_is(guest, prefix, booted):
    before = os.umask(0o077)
    try:
        install(guest, Place(prefix), booted)
    finally:
        os.umask(before)
    modes = {(path.is_dir(), path.stat().st_mode & 0o7777) for path in prefix.rglob("*") if not path.is_symlink()}
    assert modes == {(True, 0o755), (False, 0o644)}


def test_a_package_has_the_prefix_below_another_root(guest, tmp_path):
    root = tmp_path / "package"
    install(guest, Place(Path("/opt/kata"), root), "image")
    for path in DROP_INS:
        said = tomllib.loads((root / "opt/kata" / path).read_text())["hypervisor"]["qemu"]
        assert said["kernel"] == f"/opt/kata/{DATA}/guestforge/{guest.id}/kernel"
    assert [path.name for path in root.iterdir()] == ["opt"]


@pytest.mark.parametrize("name", ["kernel", MANIFEST])
def test_a_file_that_was_damaged_there_is_put_right(guest, prefix, name):
    install(guest, Place(prefix), None)
    path = prefix / DATA / "guestforge" / guest.id / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert install(guest, Place(prefix), None).changed
    assert path.read_bytes() == whole
    assert not list((prefix / DATA).rglob(".guestforge.*"))


def test_one_prefix_is_that_of_one_architecture(guest, tmp_path, prefix):
    install(guest, Place(prefix), None)
    before = tree_of(prefix)
    stranger = guest_of(release_in(tmp_path / "stranger", arch="s390x"), "s390x")
    with pytest.raises(UserError, match=r"has guests for x86_64.* one architecture") as caught:
        install(stranger, Place(prefix), None)
    assert "--remove" in caught.value.report()
    assert tree_of(prefix) == before
    uninstall(Place(prefix))
    install(stranger, Place(prefix), None)
    assert found_by_kata(prefix) == {CURRENT_GUEST: stranger.id}


# other people's files


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_text("x"), lambda path: path.symlink_to("gone")])
@pytest.mark.parametrize("name", LINKS)
def test_what_kata_has_under_its_names_is_left_and_named(guest, prefix, name, make):
    (prefix / DATA).mkdir(parents=True)
    make(prefix / DATA / name)
    before = tree_of(prefix)
    with pytest.raises(UserError, match="other people's files") as caught:
        install(guest, Place(prefix), None)
    assert f"{prefix / DATA / name}: move it away" in caught.value.report()
    assert tree_of(prefix) == before
    install(guest, Place(prefix), "image")  # which needs none of these names
    assert tree_of(prefix).items() > {(path, kept) for path, kept in before.items() if path.endswith(name)}


def edit(path):
    path.write_text(path.read_text() + "[runtime]\nenable_debug = true\n")


@pytest.mark.parametrize("path", DROP_INS)
@pytest.mark.parametrize(
    "change",
    [edit, lambda path: path.write_text(""), lambda path: (path.unlink(), path.mkdir()),
     lambda path: (path.rename(path.with_name("mine")), path.symlink_to("mine"))],
)  # fmt: skip
def test_a_drop_in_that_somebody_has_edited_is_left_and_named(guest, other, prefix, path, change):
    install(guest, Place(prefix), "image")
    change(prefix / path)
    before = tree_of(prefix)
    for act in (lambda: install(other, Place(prefix), "image"), lambda: uninstall(Place(prefix))):
        with pytest.raises(UserError, match="other people's files") as caught:
            act()
        assert f"{prefix / path}: somebody has edited it" in caught.value.report()
        assert tree_of(prefix) == before


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: path.touch(), lambda path: path.symlink_to("/")]
)
@pytest.mark.parametrize("booted", [None, "image"])
def test_a_folder_with_our_name_that_is_none_of_ours_is_left_and_named(guest, prefix, make, booted):
    (prefix / DATA).mkdir(parents=True)
    make(prefix / DATA / "guestforge")
    before = tree_of(prefix)
    for act in (lambda: install(guest, Place(prefix), booted), lambda: uninstall(Place(prefix))):
        with pytest.raises(UserError, match="other people's files") as caught:
            act()
        assert f"{prefix / DATA / 'guestforge'}: there is no 'architecture' in it" in caught.value.report()
    assert tree_of(prefix) == before


def test_a_prefix_that_is_a_file_is_the_user_s_mistake(guest, prefix):
    prefix.touch()
    with pytest.raises(UserError, match=r"--prefix .* can't be used: Not a directory"):
        install(guest, Place(prefix), None)
    assert prefix.read_bytes() == b""


def test_a_prefix_that_cannot_be_written_is_the_user_s_mistake(guest):
    with pytest.raises(UserError, match=r"--prefix .* can't be used") as caught:
        install(guest, Place(Path("/proc/prefix")), None)
    assert "name a directory that can be written" in caught.value.report()


def test_a_file_where_a_directory_has_to_be_is_named(guest, prefix):
    (prefix / RUNTIMES[1].folder).parent.mkdir(parents=True)
    (prefix / RUNTIMES[1].folder).touch()
    with pytest.raises(UserError, match=f"File exists: {prefix / RUNTIMES[1].folder}"):
        install(guest, Place(prefix), "image")


# taken away


def test_what_was_installed_goes_and_all_else_stays(guest, other, prefix):
    folder = prefix / RUNTIMES[0].folder
    (folder / "config.d").mkdir(parents=True)
    (folder / "config.d" / "50-mine.toml").write_text("[runtime]\n")
    (prefix / DATA).mkdir(parents=True)
    (prefix / DATA / "kata-alpine.img").write_text("Kata's")
    mine = {path for path in tree_of(prefix) if path.endswith((".toml", ".img"))}
    for one in (guest, other):
        install(one, Place(prefix), None)
        install(one, Place(prefix), "image")
    gone = uninstall(Place(prefix))
    assert len(gone) == len(DROP_INS) + len(LINKS) + 1
    assert {path for path, (kind, *_) in tree_of(prefix).items() if kind != "directory"} == mine
    assert uninstall(Place(prefix)) == ()
    assert uninstall(Place(prefix / "nowhere")) == ()


# killed at any moment

FILES = {
    "open", "os.chmod", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir",
    "os.symlink", "os.truncate", "tempfile.mkdtemp", "tempfile.mkstemp", "fcntl.flock",
}  # fmt: skip


def killed_at(moment, act):
    """Do something in a process that is killed as it is about to touch files for a certain time; was it?"""
    child = os.fork()
    if child == 0:
        left = moment

        def heard(event, _):
            nonlocal left
            if event in FILES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(heard)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def each_moment(tmp_path, prepare, act):
    """Kill something at every moment, each time in a prefix that was prepared; yield those prefixes."""
    moment, killed = 0, True
    while killed:
        prefix = tmp_path / f"at-{moment}"
        prepare(prefix)
        killed = killed_at(moment, lambda prefix=prefix: act(prefix))
        yield prefix
        moment += 1
    assert moment > 50


@pytest.mark.slow
@pytest.mark.parametrize("booted", [None, "image"])
def test_the_first_one_is_there_or_not_whenever_it_is_killed(guest, tmp_path, booted):
    found = []
    for prefix in each_moment(tmp_path, lambda _: None, lambda prefix: install(guest, Place(prefix), booted)):
        found.append(found_by_kata(prefix))
        assert set(found[-1].values()) <= {guest.id}
        install(guest, Place(prefix), booted)
        assert left_in(prefix) == []
    assert (found[0], set(found[-1].values())) == ({}, {guest.id})


@pytest.mark.slow
@pytest.mark.parametrize("booted", [None, "image"])
def test_there_is_the_old_one_or_the_new_one_whenever_it_is_killed(guest, other, tmp_path, booted):
    seen = set()
    for prefix in each_moment(
        tmp_path,
        lambda prefix: install(guest, Place(prefix), booted),
        lambda prefix: install(other, Place(prefix), booted),
    ):
        found = found_by_kata(prefix)
        assert len(found) == (1 if booted is None else len(RUNTIMES))
        seen |= set(found.values())
        assert seen <= {guest.id, other.id}
        install(other, Place(prefix), booted)
        assert set(found_by_kata(prefix).values()) == {other.id}
        assert left_in(prefix) == []
    assert seen == {guest.id, other.id}


@pytest.mark.slow
def test_whenever_a_removal_is_killed_nothing_leads_to_what_is_gone(guest, tmp_path):
    def prepare(prefix):
        install(guest, Place(prefix), None)
        install(guest, Place(prefix), "image")

    for prefix in each_moment(tmp_path, prepare, lambda prefix: uninstall(Place(prefix))):
        assert set(found_by_kata(prefix).values()) <= {guest.id}
        uninstall(Place(prefix))
        assert found_by_kata(prefix) == {}
        prepare(prefix)
        assert left_in(prefix) == []


def test_two_at_once_wait_for_each_other(guest, other, prefix):
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(5):
                    install(random.choice((guest, other)), Place(prefix), random.choice((None, "image")))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    assert set(found_by_kata(prefix).values()) <= {guest.id, other.id}
    assert not list(prefix.rglob(".guestforge.*"))


# On a file system of so many KiB; a mount namespace of its own takes it away again.
FULL = """
import subprocess, sys
from pathlib import Path
sys.path[:0] = {path!r}
from installs import found_by_kata, guest_of, release_in
from guestforge.core.errors import GuestforgeError
from guestforge.install.layout import install
from guestforge.install.places import Place
place, kib = Path(sys.argv[1]), sys.argv[2]
old = guest_of(release_in(place / "old"))
new = guest_of(release_in(place / "new", **{{"System.map": bytes(range(256)) * 400}}))
small = place / "small"
small.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + kib + "k", "none", small], check=True)
install(old, Place(small), "image")
try:
    install(new, Place(small), "image")
except GuestforgeError as e:
    print(e.exit_code, e.report())
    print("old", set(found_by_kata(small).values()) == {{old.id}}, list(small.rglob(".guestforge.*")))
else:
    print("new", set(found_by_kata(small).values()) == {{new.id}})
"""


@pytest.mark.parametrize("kib", [160, 200, 1000])
def test_a_full_disk_is_a_clear_error_and_leaves_what_was_there(tmp_path, kib):
    script = FULL.format(path=sys.path)
    argv = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", script, str(tmp_path), str(kib)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    if kib == 1000:
        assert done.stdout == "new True\n"
    else:
        assert done.stdout.startswith("2 error: No space left on device")
        assert "give --prefix a larger disk" in done.stdout
        assert done.stdout.endswith("old True []\n")
