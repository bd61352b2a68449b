"""What the tests with real guests share: guests that were built, a watch for leftovers, a list of the boots."""

import contextlib
import os
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rig import Rig, Scene

from guestforge.arch import PROVEN, X86_64, lookup, lookup_list
from guestforge.check import fixtures, live
from guestforge.check.guest import Machine
from guestforge.check.storages import fill_shares, prepare_with
from guestforge.check.table import boot_line
from guestforge.conform.run import PLACE, PROGRAM
from guestforge.core.cache import user_cache
from guestforge.core.run import run
from guestforge.core.runtime import HOST
from guestforge.pipeline import Pipeline
from guestforge.project.options import BuildOptions, CheckOptions
from guestforge.rootfs.agent import go_environment
from guestforge.rootfs.tree import Directory, File, Tree

BOOT = "boot"


def arches():
    """The architectures to test: $GUESTFORGE_TEST_ARCHES, by default all whose guests are proven."""
    names = os.environ.get("GUESTFORGE_TEST_ARCHES")
    return lookup_list(names) if names else PROVEN


def pytest_configure(config):
    config.pluginmanager.register(Boots(), "boots")


class Boots:
    """The list of boots. With several workers each test's own come with its report."""

    def __init__(self):
        self._lines = []

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self._lines += [line for name, line in report.user_properties if name == BOOT]

    def pytest_terminal_summary(self, terminalreporter):
        """One line for each boot, whatever pytest captures: what ran where, served by what, for how long."""
        if self._lines:
            terminalreporter.section("boots")
            for line in self._lines:
                terminalreporter.write_line(line)


def pytest_generate_tests(metafunc):
    """A test that takes `arch_row` runs once for each architecture."""
    if "arch_row" in metafunc.fixturenames:
        metafunc.parametrize("arch_row", arches(), ids=lambda arch: arch.name, scope="session")


@pytest.fixture(scope="session")
def pipeline():
    """Return the pipeline of an architecture by its name, on the user's own store."""
    return cache(lambda name: Pipeline(lookup(name), BuildOptions()))


@pytest.fixture(scope="session")
def built(pipeline):
    """Return the guest of an architecture by its name. All are built now, where the store has them not: see above.

    Most faults are shown with a guest of x86_64, whichever architectures are asked for.
    """
    guests = {arch.name: pipeline(arch.name).guest_artifacts() for arch in dict.fromkeys((X86_64, *arches()))}
    return lambda name: guests.get(name) or pipeline(name).guest_artifacts()


@pytest.fixture(scope="session")
def started_programs():
    """What yields a list, to which the first word of each program is added that this process starts meanwhile."""
    sinks = []

    def heard(event, arguments):
        if event == "subprocess.Popen":
            for sink in sinks:
                sink.append(os.fspath(arguments[1][0]))

    sys.addaudithook(heard)  # there is no way to take it away again

    @contextlib.contextmanager
    def listening():
        sinks.append(seen := [])
        yield seen
        sinks.remove(seen)

    return listening


@pytest.fixture
def started(pipeline, built, tmp_path):
    """Start an architecture's guest, its share served by a server; the guest and its storages by name.

    Each storage holds `conform`, a place for it to write to, and `more`.
    """

    @contextlib.contextmanager
    def start(arch, server, kernel_args=(), more=()):
        program = pipeline(arch.name).conform
        tree = Tree([*map(Directory, fixtures.MOUNT_POINTS), File(PROGRAM, program, 0o755), Directory(PLACE), *more])
        storages = prepare_with(arch, lambda _: (tree, ()), tmp_path, HOST, disk_mib=64)
        fill_shares(storages)
        options = CheckOptions(accel="tcg", virtio_fs_server=server)
        artifacts = replace(built(arch.name), kernel_args=kernel_args)
        with live.start(Machine(artifacts, "initrd", options, storages, tmp_path / "console.log")) as running:
            assert running.wait_serving(60)
            running.create_sandbox()
            yield running, {storage.check: storage for storage in storages}

    return start


@pytest.fixture
def go_program(tmp_path):
    """Return a static program of an architecture, made of the text of a Go file."""

    def make(arch, text, name="program"):
        source, program = tmp_path / f"{name}.go", tmp_path / f"{name}-{arch.name}"
        source.write_text(text)
        argv = [str(Path(sys.executable).with_name("go")), "build", "-o", str(program), str(source)]
        run(argv, env=go_environment(user_cache().path, arch))
        return program

    return make


@pytest.fixture
def booted(request):
    """Take a report for the list of boots, with a remark."""

    def take(report, remark=""):
        line = f"{boot_line(report)} {remark and f'({remark})'}".rstrip()
        request.node.user_properties.append((BOOT, line))

    return take


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Directories for sockets and temporary files that must be empty in the end, as must be the list of processes."""
    (tmp_path / "tmp").mkdir()
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as runtime:  # short: sockets have their place in it
        scene = Scene(Path(runtime), tmp_path / "tmp")
        for name, value in scene.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(tempfile, "tempdir", None)  # or it would remember the one before
        yield scene
        scene.assert_clean()


@pytest.fixture
def rig(built, scene, booted, tmp_path, monkeypatch):
    """Real machines under check, with faults."""
    return Rig(built, scene, booted, tmp_path / "check", monkeypatch)
