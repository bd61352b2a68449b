"""The cache directory: nobody else's to write, and nothing that is not ours in it is removed."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from guestforge.cli import commands
from guestforge.core import cache as module
from guestforge.core.cache import DIRECTORIES, FILES, TAG, Place, clean, open_cache, user_cache
from guestforge.core.errors import UserError
from guestforge.core.scratch import mark
from guestforge.core.store import Store
from guestforge.project.folder import find_project
from guestforge.project.options import CleanOptions

OTHER = 65534  # a user who is not us


def opened(path):
    return open_cache(Place(path, "VARIABLE"))


def refusal(path):
    with pytest.raises(UserError) as caught:
        opened(path)
    assert caught.value.exit_code == 1
    assert "(chosen by VARIABLE)" in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def fill(cache):
    """Put something under each of our names."""
    for name in DIRECTORIES:
        (cache / name / "deep").mkdir(parents=True, exist_ok=True)
        (cache / name / "deep" / "file").touch()
        (cache / name / "deep").chmod(0o555)
    for name in FILES:
        (cache / name).touch()


def tree(path):
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


# where it is


@pytest.mark.parametrize(
    ("environment", "path", "variable"),
    [
        ({"GUESTFORGE_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c", "GUESTFORGE_CACHE"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/guestforge", "XDG_CACHE_HOME"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/guestforge", "HOME"),
        ({"GUESTFORGE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/guestforge", "HOME"),
    ],
)
def test_the_place_and_the_variable_that_chose_it(monkeypatch, environment, path, variable):
    for name in ("GUESTFORGE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert user_cache() == Place(Path(path), variable)


def test_a_relative_path_is_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUESTFORGE_CACHE", "mine")
    assert user_cache().path == tmp_path / "mine"


# clean


def test_all_that_is_ours_goes_and_the_directory_too(tmp_path):
    cache = opened(tmp_path / "cache")
    fill(cache)
    (cache / "bench-abcdefgh").mkdir()
    mark(cache / "bench-abcdefgh")
    assert clean(Place(cache)) == ()
    assert not cache.exists()
    assert clean(Place(cache)) == ()


@pytest.mark.parametrize("foreign", ["thesis.txt", "storehouse", "Store", ".work", "bench-personal", "bench-1"])
def test_what_is_not_ours_is_kept_and_named(tmp_path, foreign):
    (tmp_path / foreign).mkdir()
    (tmp_path / foreign / "years").write_text("x")
    cache = opened(tmp_path)
    fill(cache)
    assert clean(Place(cache)) == (cache / foreign,)
    assert tree(tmp_path) == [foreign, f"{foreign}/years"]


@pytest.mark.parametrize("names", [{"work"}, {"work", "go"}, {"tmp", "logs", "notes"}, {"store", "thesis"}])
def test_what_had_our_names_before_us_is_kept(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("x")
    before = tree(tmp_path)
    assert set(clean(Place(tmp_path))) == {tmp_path / name for name in names}
    for _ in range(2):  # it may be used all the same
        store = Store(tmp_path)
        store.get_or_build("step", {}, lambda out: (out / "file").touch())
        with store.workspace("kernel"):
            pass
        (tmp_path / "tools.json").touch()
    assert set(clean(Place(tmp_path))) == {tmp_path / name for name in names}
    assert set(before) <= set(tree(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == names


def test_another_programs_tag_is_kept_and_says_nothing_of_ours(tmp_path):
    (tmp_path / TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of another\n")
    (tmp_path / "store").mkdir()
    Store(tmp_path)
    assert clean(Place(tmp_path)) == (tmp_path / TAG, tmp_path / "store")


def test_an_empty_directory_of_a_user_stays(tmp_path):
    assert clean(Place(tmp_path)) == ()
    assert tmp_path.is_dir()


def test_a_cache_that_is_older_than_tags_is_ours(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    fill(cache)
    clean(Place(cache))
    assert not cache.exists()


def test_links_in_a_cache_go_and_what_they_lead_to_stays(tmp_path):
    (tmp_path / "go").mkdir()
    (tmp_path / "go" / "module").touch()
    cache = opened(tmp_path / "cache")
    (cache / "go").symlink_to(tmp_path / "go")
    (tmp_path / "link").symlink_to(cache)
    clean(Place(tmp_path / "link"))
    assert tree(tmp_path) == ["cache", "go", "go/module", "link"]
    assert opened(tmp_path / "link") == cache


def test_the_task_says_what_it_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "output").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.txt").write_text("years")
    (tmp_path / "guestforge.toml").touch()
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path / "cache"))
    Store().get_or_build("step", {}, lambda out: (out / "file").touch())
    commands.clean(CleanOptions(find_project(tmp_path), store=True))
    assert tree(tmp_path) == ["cache", "cache/thesis.txt", "guestforge.toml"]
    assert "cache/thesis.txt" in capsys.readouterr().err


def test_an_output_that_is_a_link_loses_the_link_alone(tmp_path):
    (tmp_path / "srv").mkdir(mode=0o755)
    (tmp_path / "srv" / "file").touch()
    (tmp_path / "output").symlink_to("srv")
    (tmp_path / "guestforge.toml").touch()
    commands.clean(CleanOptions(find_project(tmp_path)))
    assert tree(tmp_path) == ["guestforge.toml", "srv", "srv/file"]
    assert (tmp_path / "srv").stat().st_mode & 0o777 == 0o755


# whose it is


def test_it_is_private_whatever_the_mask_is(tmp_path):
    before = os.umask(0)
    try:
        store = Store(tmp_path / "cache")
        store.get_or_build("step", {}, lambda out: (out / "file").touch())
        with store.workspace("kernel/x"):
            pass
    finally:
        os.umask(before)
    paths = [store.cache, *(store.cache / name for name in ("store", "store/step", "locks", "tmp", "work"))]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (store.cache / "locks").iterdir()} == {0o600}


def test_one_that_others_may_read_is_closed_to_them(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o755)
    assert opened(tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_holds_other_things_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").touch()
    assert opened(tmp_path).stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("inside", ["", *sorted(DIRECTORIES | FILES)])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_one_that_others_may_write_is_refused(tmp_path, inside, mode):
    cache = opened(tmp_path / "cache")
    fill(cache)
    (cache / inside).chmod(0o755 | mode)
    assert f"others may write to {cache / inside}" in refusal(cache)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what others own")


@as_root
@pytest.mark.parametrize("inside", ["", "store", "locks", "tools.json"])
def test_one_of_somebody_else_is_refused(tmp_path, inside):
    cache = opened(tmp_path / "cache")
    fill(cache)
    os.chown(cache / inside, OTHER, OTHER)
    assert "can't be trusted" in refusal(cache)


@as_root
@pytest.mark.parametrize("above", ["link", "link/cache", "link/../cache"])
def test_one_that_is_reached_by_a_link_of_somebody_else_is_refused(tmp_path, above):
    (tmp_path / "place" / "cache").mkdir(parents=True)
    (tmp_path / "link").symlink_to("place")
    assert opened(tmp_path / above)
    os.chown(tmp_path / "link", OTHER, OTHER, follow_symlinks=False)
    assert f"link {tmp_path / 'link'} of" in refusal(tmp_path / above)


@as_root
def test_a_link_of_somebody_else_in_it_is_refused(tmp_path):
    cache = opened(tmp_path / "cache")
    (cache / "go").symlink_to(tmp_path)
    assert opened(cache)
    os.chown(cache / "go", OTHER, OTHER, follow_symlinks=False)
    refusal(cache)


def test_a_lock_follows_no_link_and_cuts_nothing_off(tmp_path):
    store = Store(tmp_path / "cache")
    (store.cache / "locks").mkdir()
    (tmp_path / "victim").write_text("mine")
    lock = store.cache / "locks" / f"step-{store.path('step', {}).name}"
    lock.symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=rf"symbolic links: .*/locks/{lock.name}"):
        store.get_or_build("step", {}, lambda _: None)
    lock.unlink()
    os.link(tmp_path / "victim", lock)
    store.get_or_build("step", {}, lambda out: (out / "file").touch())
    assert (tmp_path / "victim").read_text() == "mine"


def test_what_others_left_in_its_tmp_is_not_swept(tmp_path):
    store = Store(tmp_path / "cache")
    (store.cache / "tmp" / "agent.personal").mkdir(parents=True)
    (store.cache / "tmp" / "agent.personal" / "lock").touch()
    (store.cache / "tmp" / "file").touch()
    store.get_or_build("step", {}, lambda out: (out / "file").touch())
    assert tree(store.cache / "tmp") == ["agent.personal", "agent.personal/lock", "file"]


# what can't be used


def a_file(path):
    path.write_text("x")


def below_a_file(path):
    path.parent.rmdir()
    path.parent.write_text("x")


def a_loop(path):
    path.symlink_to(path)


def a_link_to_a_file(path):
    path.symlink_to("/etc/passwd")


def a_pipe(path):
    os.mkfifo(path)


def a_file_as_store(path):
    path.mkdir()
    (path / "store").write_text("x")


@pytest.mark.parametrize("spoil", [a_file, below_a_file, a_loop, a_link_to_a_file, a_pipe, a_file_as_store])
def test_what_is_no_directory_is_refused(tmp_path, spoil):
    (tmp_path / "above").mkdir()
    spoil(tmp_path / "above" / "cache")
    refusal(tmp_path / "above" / "cache")


@pytest.mark.parametrize("path", ["/proc/x", "/proc/self/x/y", "/dev/null/x", f"/{'n' * 300}"])
def test_what_can_not_be_made_is_refused(path):
    assert "can't be used: " in refusal(Path(path))


def test_what_can_not_be_written_is_refused(tmp_path, monkeypatch):
    cache = opened(tmp_path / "cache")
    monkeypatch.setattr(module.os, "access", lambda *_: False)  # as for a user, or on a disk that is read-only
    assert "Permission denied" in refusal(cache)


@pytest.mark.parametrize("character", [*" \t\n:;#$%&'\"()*<>?[]\\`{|}!", "\x7f", "\udcff", "\u00a0", "\u2028"])
def test_a_path_that_a_kernels_build_can_not_take_is_refused_and_nothing_is_made(tmp_path, character):
    message = refusal(tmp_path / f"a{character}b" / "cache")
    assert repr(character) in message
    assert tree(tmp_path) == []
    (tmp_path / f"a{character}b").mkdir()
    (tmp_path / "link").symlink_to(f"a{character}b")  # make follows links
    assert repr(character) in refusal(tmp_path / "link" / "cache")


@pytest.mark.parametrize("name", ["a.b-c_d+e=f,g@h~", "größe", "缓存", "0"])
def test_other_paths_are_taken(tmp_path, name):
    assert opened(tmp_path / name / "cache").is_dir()
    shutil.rmtree(tmp_path / name)
