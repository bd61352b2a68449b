"""Builds as a user runs them, interrupted, killed, two at once, without room, and with input that is wrong.

Nothing is booted here. Where a build has to be interrupted, the kernel is a tree in miniature, the rest is real.
"""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from command import INVOKE, MINIATURE, Running, invoke, on_small_disk
from miniature import workspace

from guestforge.arch import AARCH64, X86_64
from guestforge.core.cache import user_cache
from guestforge.core.files import digest_file
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.store import Store
from guestforge.rootfs.agent import AGENT, program_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ARTIFACTS = ("System.map", "config", "initrd.img", "kernel", "manifest.json", "rootfs.img")
DELAY = 1.0  # seconds that an object takes where a build is to be interrupted while it compiles

# A line that a build prints, and what it does right after it.
MOMENTS = {
    "configuring": r"configuring the kernel for \w+ \.\.\.",
    "compiling": r"configuring the kernel for \w+: done",
    "the agent": r"building the agent for \w+ \.\.\.",
    "the initrd": r"packing the initrd for \w+ \.\.\.",
    "the image": r"writing the disk image for \w+ \.\.\.",
    "the output": r"packing the initrd for \w+: done",
}


class Builds:
    """Builds with a cache of their own, empty but for Go's."""

    def __init__(self, directory):
        self.cache = directory / "cache"
        self.temporary = directory / "tmp"
        self._output = directory / "output"
        self.cache.mkdir()
        self.temporary.mkdir(mode=0o700)  # in a private one nothing is left, whatever the moment
        (user_cache().path / "go").mkdir(parents=True, exist_ok=True)
        (self.cache / "go").symlink_to(user_cache().path / "go")  # Go's own locks are not what is tested here

    def start(self, arch="x86_64", output="output"):
        return Running(
            MINIATURE, "build", "--arch", arch, "--output", str(self._output / output),
            GUESTFORGE_CACHE=self.cache, TMPDIR=self.temporary, GUESTFORGE_INSTALL="never",
        )  # fmt: skip

    def delay(self, seconds, arch="x86_64"):
        """Have each object of the kernel take its time."""
        place = workspace(self.cache, arch)
        place.mkdir(parents=True, exist_ok=True)
        (place / "delay").write_text(str(seconds))

    def artifacts(self, arch="x86_64", output="output"):
        """Return the digests of what is in the output directory."""
        return {path.name: digest_file(path) for path in (self._output / output / arch / "minimal").iterdir()}

    def assert_whole(self):
        """Every entry of the store is what its step.json says."""
        for entry in (self.cache / "store").glob("*/*"):
            facts = json.loads((entry / "step.json").read_text())
            assert {name: row["sha256"] for name, row in facts["files"].items()} == {
                name: digest_file(entry / name) for name in facts["files"]
            }

    def assert_complete(self, wanted):
        """The next build completes with these artifacts, and nothing is left of the one before."""
        self.delay(0)
        self.start().end().assert_told(0)
        assert self.artifacts() == wanted
        self.assert_whole()
        assert list((self.cache / "tmp").iterdir()) == []
        assert list(self.temporary.iterdir()) == []
        assert processes_of(self.cache) == {}


def processes_of(directory):
    """Return the processes that name a directory in their command line or environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if os.fsencode(directory) in words:
                found[int(entry.name)] = words.partition(b"\0\0")[0][:200]
    return found


def await_no_processes(directory, limit):
    deadline = time.monotonic() + limit
    while (left := processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == {}


@pytest.fixture
def builds(tmp_path):
    return Builds(tmp_path)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The artifacts of a build that nobody disturbs, by architecture."""
    builds = Builds(tmp_path_factory.mktemp("undisturbed"))
    builds.start("x86_64,aarch64").end().assert_told(0)
    builds.assert_whole()
    found = {arch: builds.artifacts(arch) for arch in ("x86_64", "aarch64")}
    assert {tuple(sorted(files)) for files in found.values()} == {ARTIFACTS}
    return found


# Interrupted


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_the_store_whole_and_the_next_build_completes(builds, wanted, moment):
    builds.delay(DELAY if moment == "compiling" else 0)
    running = builds.start()
    running.wait_line(MOMENTS[moment])
    running.signal(signal.SIGINT)
    ended = running.end()
    if moment != "the output":  # which may have been there before the signal was
        ended.assert_told(130, "interrupted")
    assert "Traceback" not in ended.text
    assert processes_of(builds.cache) == {}
    builds.assert_whole()
    assert list((builds.cache / "tmp").iterdir()) == []
    builds.assert_complete(wanted["x86_64"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_polite_signals_are_as_ctrl_c(builds, number):
    builds.delay(DELAY)
    running = builds.start()
    running.wait_line(MOMENTS["compiling"])
    running.signal(number)
    running.end().assert_told(130, "interrupted")
    assert processes_of(builds.cache) == {}


def test_impatient_ctrl_c_does_no_harm(builds, wanted):
    builds.delay(DELAY)
    running = builds.start()
    running.wait_line(MOMENTS["compiling"])
    for _ in range(20):
        running.signal(signal.SIGINT)
        time.sleep(0.01)
    running.end().assert_told(130, "interrupted")
    assert processes_of(builds.cache) == {}
    builds.assert_complete(wanted["x86_64"])


@pytest.mark.parametrize("moment", ["compiling", "the agent", "the initrd", "the output"])
def test_kill_leaves_the_store_whole_and_the_next_build_completes(builds, wanted, moment):
    builds.delay(DELAY if moment == "compiling" else 0)
    running = builds.start()
    running.wait_line(MOMENTS[moment])
    running.signal(signal.SIGKILL)
    assert running.end().code == -signal.SIGKILL
    builds.assert_whole()
    await_no_processes(builds.cache, 30)
    builds.assert_complete(wanted["x86_64"])


def test_next_build_waits_for_what_a_killed_one_left_running(builds, wanted):
    builds.delay(4)
    running = builds.start()
    running.wait_line(MOMENTS["compiling"])
    time.sleep(0.5)  # make has started its first objects
    running.signal(signal.SIGKILL)
    running.end()
    assert processes_of(builds.cache)  # make is dead, what it started is not
    builds.delay(0)
    ended = builds.start().end()
    ended.assert_told(0, "waiting for another build that is making work-kernel")
    assert builds.artifacts() == wanted["x86_64"]


# At once


def test_builds_at_once_of_the_same_and_of_other_architectures_all_succeed(builds, wanted):
    for arch in ("x86_64", "aarch64"):
        builds.delay(0.3, arch)
    jobs = {(arch, output): builds.start(arch, output) for output in ("one", "two") for arch in ("x86_64", "aarch64")}
    ended = {job: running.end() for job, running in jobs.items()}
    for end in ended.values():
        end.assert_told(0)
    assert {job: builds.artifacts(*job) for job in jobs} == {(arch, output): wanted[arch] for arch, output in jobs}
    assert any("waiting for another build" in end.text for end in ended.values())
    builds.assert_whole()
    assert list((builds.cache / "tmp").iterdir()) == []


def test_builds_at_once_into_one_output_directory_both_succeed(builds, wanted):
    both = [builds.start(), builds.start()]
    for running in both:
        running.end().assert_told(0)
    assert builds.artifacts() == wanted["x86_64"]


# Without room


# the sizes are such that copying the tree, linking the agent, making an image are the first that do not fit
@pytest.mark.parametrize("size", ["72k", "3m", "8m", "10m"])
def test_full_disk_under_the_cache_is_a_clear_error(tmp_path, size):
    (tmp_path / "cache").mkdir()
    output = ("--output", str(tmp_path / "output"))
    words = (*MINIATURE, "build", "--arch", "x86_64", *output)
    go = 'mkdir "$GUESTFORGE_CACHE/go" && ln -s "$WARM"/* "$GUESTFORGE_CACHE/go/" && exec "$@"'
    ended = on_small_disk(
        ("sh", "-c", go, "sh"), tmp_path / "cache", size, *words,
        GUESTFORGE_CACHE=tmp_path / "cache", WARM=user_cache().path / "go",
    )  # fmt: skip
    ended.assert_told(2)
    assert re.search("no space left on device", ended.text, re.IGNORECASE), ended.text
    assert "GUESTFORGE_CACHE" in ended.text


def test_full_disk_under_the_output_is_a_clear_error(builds, tmp_path):
    builds.start(output="elsewhere").end().assert_told(0)
    (tmp_path / "small").mkdir()
    ended = on_small_disk(
        MINIATURE, tmp_path / "small", "1m", "build", "--arch", "x86_64", "--output", str(tmp_path / "small"),
        GUESTFORGE_CACHE=builds.cache,
    )  # fmt: skip
    ended.assert_told(2, "No space left on device", "--output")


# Wrong input


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--arch", "x86-46"), ("unknown architecture 'x86-46'", "x86_64, aarch64, ppc64le, s390x", "mean x86_64?")),
        (("--arch", ""), ("no architecture given",)),
        (("--jobs", "x"), ("--jobs x: not a number",)),
        (("--jobs", "0"), ("--jobs 0: not a number from 1",)),
        (("--jobs", "1.5"), ("--jobs 1.5: not a whole number",)),
        (("--timeout", "-1"), ("--timeout -1: not a number",)),
        (("--timeout", "nan"), ("--timeout nan: not a number",)),
        (("--artifact", "inird"), ("--artifact inird", "did you mean initrd?")),
        (("--accel", "kmv"), ("--accel kmv", "did you mean kvm?")),
        (("--guest", "minimla"), ("no recipe 'minimla'", "did you mean minimal?")),
        (("--guest", "../guests/minimal"), ("no recipe '../guests/minimal'", "not a path")),
        (("--agent", "/nonexistent"), ("--agent /nonexistent: No such file",)),
        (("--agent", "tasks.py"), ("is not a 64-bit ELF file",)),
    ],
)
def test_wrong_option_is_told_before_anything_is_built(tmp_path, words, told):
    cache = tmp_path / "cache"
    ended = invoke("build", *words, "--output", str(tmp_path / "output"), GUESTFORGE_CACHE=cache)
    ended.assert_told(1, "error: ", *told)
    assert not (tmp_path / "output").exists()
    assert not (cache / "store").exists()


def test_agent_of_another_architecture_is_refused(tmp_path):
    store = Store()
    agent = Evaluation(store).entry(program_step(store, AARCH64, AGENT, Jobserver(1))).file(AGENT)
    words = ("--arch", X86_64.name, "--agent", str(agent), "--output", str(tmp_path))
    ended = invoke("build", *words, GUESTFORGE_CACHE=tmp_path / "cache")
    ended.assert_told(1, "is for aarch64 (little endian), not for x86_64")


def test_agent_that_is_not_static_is_refused(tmp_path):
    words = ("--arch", X86_64.name, "--agent", os.path.realpath(sys.executable), "--output", str(tmp_path))
    invoke("build", *words, GUESTFORGE_CACHE=tmp_path / "cache").assert_told(1, "is not static: it wants /")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('description = "d"\nkernel = "default"\nrootfs = "minimal"\nkernle = "x"\n',
         ("guests/wrong.toml:4: unknown key kernle", "did you mean kernel?")),
        ('description = "d"\nkernel = "default"\nrootfs = "minimal"\n[boot]\nmemory_mib = "256"\n',
         ("guests/wrong.toml:5: boot.memory_mib: ",)),
        ('description = "d"\nkernel = "default"\n', ("guests/wrong.toml: the key rootfs is missing",)),
        ('description = "d"\nkernel = "defualt"\nrootfs = "minimal"\n',
         ("no recipe 'defualt'", "kernels/defualt.toml", "did you mean default?")),
        ('description = "d\n', ("guests/wrong.toml: not TOML: ", "line 1")),
    ],
)  # fmt: skip
def test_wrong_recipe_is_told_with_file_key_and_line(tmp_path, text, told):
    guests = tmp_path / "recipes" / "guests"
    guests.mkdir(parents=True)
    (guests / "wrong.toml").write_text(text)
    (tmp_path / "guestforge.toml").touch()
    words = ("build", "--arch", "x86_64", "--guest", "wrong", "--output", str(tmp_path / "output"))
    running = Running(MINIATURE, *words, GUESTFORGE_CACHE=tmp_path / "cache", GUESTFORGE_PROJECT=tmp_path)
    running.end().assert_told(1, "error: ", *told)


def test_unknown_option_and_task_are_told_by_invoke():
    for words in (("build", "--nonsense"), ("biuld",)):
        ended = Running(INVOKE, *words).end()
        assert ended.code == 1
        assert "Traceback" not in ended.text
