"""Whatever path a user names, by option or variable: one that can't be used is told in a line, and nothing is built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.cli import commands
from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import disk_errors, require_file, try_directory
from guestforge.core.store import Store
from guestforge.manifest import Artifact, place, write_json
from guestforge.project.option import read
from guestforge.project.options import BuildOptions, MakeOptions
from guestforge.vmm.sockets import runtime_directory

REPOSITORY = Path(__file__).parents[2]
INVOKE = Path(sys.executable).with_name("invoke")


def a_file(path):
    path.write_text("x")
    path.chmod(0o755)
    return path


def below_a_file(path):
    return a_file(path) / "below"


def a_loop(path):
    path.symlink_to(path)
    return path


def a_dangling_link(path):
    path.symlink_to(path.with_name("nowhere"))
    return path


def a_pipe(path):
    os.mkfifo(path)
    return path


def in_proc(_):
    return Path("/proc/x")


def a_device(_):
    return Path("/dev/null")


def too_long(path):
    return path / ("n" * 300)


def much_too_long(path):
    return path / ("n" * 200 + "/") / "/".join(["m" * 200] * 30)


def closed(_):
    """A directory that root may not write either."""
    return Path("/proc/self/fdinfo")


BAD = [a_file, below_a_file, a_loop, a_dangling_link, a_pipe, in_proc, a_device, too_long, much_too_long, closed]
# A link to nowhere is a cache that is not there yet.
NAMED = [
    *((spoil, "--output") for spoil in BAD),
    *((spoil, "--agent") for spoil in BAD if spoil is not a_file),
    *((spoil, "GUESTFORGE_CACHE") for spoil in BAD if spoil is not a_dangling_link),
    *((spoil, "XDG_CACHE_HOME") for spoil in BAD if spoil is not a_dangling_link),
    *((spoil, "HOME") for spoil in BAD if spoil is not a_dangling_link),
    *((spoil, "TMPDIR") for spoil in BAD),
]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(commands, "ensure", lambda _: pytest.fail("it was let through"))
    return monkeypatch


@pytest.mark.parametrize(("spoil", "name"), NAMED, ids=[f"{name} {spoil.__name__}" for spoil, name in NAMED])
def test_a_path_that_can_not_be_used_is_told_in_a_line(tmp_path, environment, spoil, name):
    bad = str(spoil(tmp_path / "bad"))
    given = {"output": str(tmp_path / "output")}
    if name in {"XDG_CACHE_HOME", "HOME"}:
        environment.delenv("GUESTFORGE_CACHE")
    if name.startswith("--"):
        given[name.removeprefix("--")] = bad
    else:
        environment.setenv(name, bad)
    with pytest.raises(UserError) as caught:
        commands.kernel(read(BuildOptions, given), MakeOptions())
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("words", "variables"), [(["--output", "/proc/x"], {}), ([], {"GUESTFORGE_CACHE": "/proc/x"})])
def test_a_user_sees_a_line_and_a_hint(tmp_path, words, variables):
    env = {**os.environ, "GUESTFORGE_CACHE": str(tmp_path / "cache"), **variables}
    argv = [INVOKE, "--search-root", REPOSITORY, "kernel", *words]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


def test_a_trial_leaves_nothing(tmp_path):
    try_directory(tmp_path / "a" / "b", "--output")
    try_directory(tmp_path, "--output")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "agent").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for a user; root may read anything
    with pytest.raises(UserError, match=f"--agent {tmp_path / 'agent'}: Permission denied"):
        require_file(tmp_path / "agent", "--agent")


@pytest.fixture
def artifact(tmp_path):
    entry = Store(tmp_path / "cache").get_or_build("step", {}, lambda out: (out / "result").write_text("x") and None)
    return Artifact("kernel", entry, "result")


@pytest.mark.parametrize("name", ["kernel", "manifest.json"])
def test_a_directory_in_the_place_of_a_file_of_the_output_is_told(tmp_path, artifact, name):
    (tmp_path / "out" / name / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match=f"Is a directory: .*{name}"):
        place(tmp_path / "out", (artifact,))
        write_json(tmp_path / "out" / "manifest.json", {})
    assert (tmp_path / "out" / name / "mine").is_dir()


@pytest.mark.parametrize("error", [IsADirectoryError(21, "Is a directory", "/x"), OSError(40, "Too many levels", "/x")])
def test_something_in_the_way_is_the_users_to_move(tmp_path, error):
    with pytest.raises(UserError, match="/x") as caught, disk_errors(tmp_path, "give --output"):
        raise error
    assert "--output" in caught.value.hint
    with pytest.raises(BuildError), disk_errors(tmp_path):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("spoil", BAD)
def test_a_session_directory_that_can_not_be_used_is_passed_over(tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(spoil(tmp_path / "bad")))
    with runtime_directory() as directory:
        assert directory.is_dir()


def test_a_session_directory_that_is_relative_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")
    with runtime_directory() as directory:
        assert directory.is_absolute()
