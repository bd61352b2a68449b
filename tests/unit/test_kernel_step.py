"""The kernel step on a tree in miniature (tests/fake_kernel), with the host's real compiler and make."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from guestforge.arch import host
from guestforge.core import graph
from guestforge.core.code import code_digest
from guestforge.core.errors import BuildError, UserError
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.runtime import HOST
from guestforge.core.step import Step
from guestforge.core.store import Store
from guestforge.kernel import step as step_module
from guestforge.kernel import toolchain
from guestforge.kernel.step import kernel_step
from guestforge.project.models import DebianSource, Kernel
from guestforge.sources.kernel_tree import write_facts
from guestforge.sources.unpack import make_read_only
from guestforge.testing.runtimes import Noting

FAKE = Path(__file__).parents[1] / "fake_kernel"
SOURCE = DebianSource(kind="debian", package="linux-source-6.12", suite="trixie", version=None)
DATE = 1_700_000_000
PACKED = "CONFIG_KERNEL_LZ4=y\n" if host().kernel_packings else ""


def copy_fake(out, _used, _runtime):
    shutil.copytree(FAKE, out / "tree")
    make_read_only(out / "tree")
    write_facts(out, "6.12-fake", DATE)


FAKE_SOURCE = Step("source", lambda _: {"fake": 1}, copy_fake, code=())


class Setting:
    """A store, fragments that a test writes, and the step on both."""

    def __init__(self, path):
        self.store = Store(path / "cache")
        self.fragments = path / "kernel-configs"
        self.ask("base", "CONFIG_FUSE=y\n")

    def ask(self, name, text):
        (self.fragments / "common").mkdir(parents=True, exist_ok=True)
        (self.fragments / "common" / f"{name}.conf").write_text(text)

    def build(self, *names, base="allnoconfig", jobs=2, runtime=HOST, compression=None):
        recipe = Kernel(source=SOURCE, base=base, compression=compression, fragments=("base", *names))
        step = kernel_step(self.store, host(), recipe, FAKE_SOURCE, jobs=Jobserver(jobs), fragments=[self.fragments])
        return Evaluation(self.store, runtime).entry(step)

    @property
    def workspace(self):
        return next((self.store.cache / "work" / "kernel").iterdir())

    def configured(self):
        return (self.workspace / "configured.log").read_text().split()


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


def test_a_kernel_is_the_same_wherever_its_cache_is_and_however_that_is_reached(tmp_path):
    """Make goes by real paths, and so must what maps them away: else the kernel has them in it."""
    for name in ("real", "elsewhere", "sources"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    linked = Setting(tmp_path / "link")
    (linked.store.cache / "store").mkdir()
    (linked.store.cache / "store" / "source").symlink_to(tmp_path / "sources")
    entries = [setting.build() for setting in (Setting(tmp_path / "real"), linked)]
    assert len({entry.files["kernel"].sha256 for entry in entries}) == 1
    assert b"main.c" in (entries[0].path / "kernel").read_bytes()


def test_a_kernel_is_built_verified_and_reused(setting):
    entry = setting.build()
    assert {"kernel", "config", "System.map", "kernel.json"} <= set(entry.files)
    assert (entry.path / "config").read_text() == f"CONFIG_FUSE=y\n{PACKED}"
    facts = json.loads((entry.path / "kernel.json").read_text())
    assert facts["release"] == "6.12.0-fake"
    assert facts["objects"] == 3
    assert facts["size"] == entry.files["kernel"].size
    assert setting.build().reused


@pytest.mark.skipif(not host().kernel_packings, reason="the host's kernel is not packed")
def test_the_recipe_says_how_it_is_packed(setting):
    setting.build()
    entry = setting.build(compression="zstd")
    assert not entry.reused
    assert (entry.path / "config").read_text() == "CONFIG_FUSE=y\nCONFIG_KERNEL_ZSTD=y\n"


def test_time_and_place_do_not_show_in_the_kernel(tmp_path):
    one, two = Setting(tmp_path / "one"), Setting(tmp_path / "elsewhere" / "two")
    first = (one.build().path / "kernel").read_bytes()
    assert first == (two.build().path / "kernel").read_bytes()
    assert b"Tue Nov 14 22:13:20 UTC 2023 guestforge@guestforge" in first
    assert os.fsencode(tmp_path) not in first


@pytest.mark.alone
def test_a_build_with_nothing_changed_starts_no_program(setting):
    runtime = Noting()
    setting.build(runtime=runtime)
    tools = {"make", f"{host().cross_prefix}gcc", f"{host().cross_prefix}ld"}
    assert {name.rpartition("/")[2] for name in runtime.started} == tools
    runtime.started.clear()
    start = time.monotonic()
    assert setting.build(runtime=runtime).reused
    assert runtime.started == []
    assert time.monotonic() - start < 1.0  # a build of this tree takes longer


def test_only_what_changed_is_compiled_again(setting):
    setting.build()
    setting.ask("more", "CONFIG_EXTRA=y\n")
    before = (setting.workspace / "init" / "main.o").stat().st_mtime_ns
    entry = setting.build("more")
    assert not entry.reused
    assert "CONFIG_EXTRA=y" in (entry.path / "config").read_text()
    # the tree in miniature compiles all again when .config is newer; the real one knows each option
    assert (setting.workspace / "init" / "main.o").stat().st_mtime_ns > before
    setting.ask("more", "# the same\nCONFIG_EXTRA=y\n")
    assert setting.build("more").reused


def test_a_request_that_did_not_change_is_not_configured_again(setting, monkeypatch):
    setting.build()
    config = (setting.workspace / ".config").stat().st_mtime_ns
    passes = setting.configured()
    monkeypatch.setattr(graph, "code_digest", lambda *modules: "another" if modules else code_digest())
    assert not setting.build().reused
    assert setting.configured() == passes == ["allnoconfig"]
    assert (setting.workspace / ".config").stat().st_mtime_ns == config


def test_a_request_that_changes_nothing_leaves_the_config_untouched(setting):
    setting.build()
    config, compiled = (setting.workspace / ".config"), (setting.workspace / "init" / "main.o")
    before = config.stat().st_mtime_ns, compiled.stat().st_mtime_ns
    setting.ask("more", "# CONFIG_NONE is not set\n")
    entry = setting.build("more")
    assert not entry.reused
    assert (config.stat().st_mtime_ns, compiled.stat().st_mtime_ns) == before
    assert json.loads((entry.path / "kernel.json").read_text())["objects"] == 0


def test_a_config_that_somebody_touched_is_made_again(setting, monkeypatch):
    setting.build()
    (setting.workspace / ".config").write_text("CONFIG_BROKEN=y\n")
    monkeypatch.setattr(graph, "code_digest", lambda *modules: "another" if modules else code_digest())
    assert (setting.build().path / "config").read_text() == f"CONFIG_FUSE=y\n{PACKED}"


def test_a_base_that_takes_no_request_has_it_laid_over(setting):
    entry = setting.build(base="defconfig")
    assert (entry.path / "config").read_text() == f"CONFIG_FROM_BASE=y\nCONFIG_FUSE=y\n{PACKED}"
    assert setting.configured() == ["defconfig", "olddefconfig"]


def test_an_option_that_kconfig_drops_fails_with_its_reason(setting):
    setting.ask("client", "\nCONFIG_FUSE_CLIENT=y\nCONFIG_NOTHING=m\n")
    setting.ask("base", "# CONFIG_FUSE is not set\n")
    with pytest.raises(BuildError, match="CONFIG_FUSE_CLIENT, CONFIG_NOTHING") as caught:
        setting.build("client")
    lines = caught.value.excerpt.splitlines()
    assert lines[0] == "kernel-configs/common/client.conf:2: CONFIG_FUSE_CLIENT: wanted y, got n"
    assert lines[1].strip() == "fs/Kconfig:5 depends on FUSE && (EXTRA || BROKEN); not set: FUSE, EXTRA, BROKEN"
    assert lines[2] == "kernel-configs/common/client.conf:3: CONFIG_NOTHING: wanted m, got n"
    assert "no Kconfig file of this kernel defines it" in lines[3]
    assert not (setting.workspace / "vmlinux").exists()


def test_a_compile_error_is_shown_with_file_and_line_and_the_log_stays(setting):
    setting.ask("broken", "CONFIG_BROKEN=y\n")
    with pytest.raises(BuildError, match=r"^fs/broken\.c:3:\d+: .*undeclared") as caught:
        setting.build("broken")
    assert "return undeclared;" in caught.value.excerpt
    assert "Error 1" not in caught.value.report()
    log = Path(caught.value.hint.removeprefix("the full log is "))
    assert "undeclared" in log.read_text()
    assert log.parent == setting.store.cache / "logs"


def build_in_process(path, started):
    setting = Setting(path)
    started.set()
    setting.build()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_completes_next_time(setting, tmp_path, number):
    workspace = (
        setting.store.cache / "work" / "kernel" / f"{Evaluation(setting.store).entry(FAKE_SOURCE).key}-{host().name}"
    )
    workspace.mkdir(parents=True)
    (workspace / "delay").write_text("0.5")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=build_in_process, args=(tmp_path, context.Event()))
    process.start()
    wait_for(lambda: len(list(workspace.rglob(".*.o.cmd"))) >= 2)
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode != 0
    assert not list((setting.store.cache / "store").glob("kernel/*"))
    (workspace / "delay").write_text("0")
    done = {path: path.stat().st_mtime_ns for path in workspace.rglob("*.o")}
    assert not setting.build().reused
    assert all(path.stat().st_mtime_ns == at for path, at in done.items()), "what was whole is compiled again"


def wait_for(condition, limit=10.0):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_builds_at_once_share_one_result(setting):
    entries, failures = [], []

    def build():
        try:
            entries.append(setting.build())
        except BaseException as e:
            failures.append(e)

    run_all([build, build, build])
    assert not failures
    assert sorted(entry.reused for entry in entries) == [False, True, True]


def test_two_builds_of_different_kernels_at_once_both_succeed(setting):
    setting.ask("more", "CONFIG_EXTRA=y\n")
    configs, failures = {}, []

    def build(*names):
        try:
            configs[names] = (setting.build(*names).path / "config").read_text()
        except BaseException as e:
            failures.append(e)

    run_all([build, lambda: build("more")])
    assert not failures
    assert configs == {(): f"CONFIG_FUSE=y\n{PACKED}", ("more",): f"CONFIG_EXTRA=y\nCONFIG_FUSE=y\n{PACKED}"}


def run_all(targets):
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_missing_compiler_names_its_package(setting, monkeypatch):
    monkeypatch.setattr(
        "guestforge.core.need.find_tool", lambda name: None if name.endswith("gcc") else Path("/bin/true")
    )
    with pytest.raises(UserError, match=r"gcc is not installed") as caught:
        setting.build()
    assert caught.value.hint == "apt-get install gcc"


def test_a_compiler_that_changed_is_another_kernel(setting):
    first = setting.build()
    known = json.loads((setting.store.cache / toolchain.MEMORY).read_text())
    (setting.store.cache / toolchain.MEMORY).write_text(json.dumps({key: f"{v} new" for key, v in known.items()}))
    assert setting.build().key != first.key


def test_a_damaged_memory_of_tools_is_forgotten(setting):
    setting.build()
    for damaged in ("{", "[]", "7"):
        (setting.store.cache / toolchain.MEMORY).write_text(damaged)
        assert setting.build().reused


def test_a_full_disk_is_a_clear_error_and_the_next_build_completes(setting, monkeypatch):
    def fail(_, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(step_module, "atomic_copy", fail)
    with pytest.raises(BuildError, match="No space left on device"):
        setting.build()
    monkeypatch.undo()
    assert not setting.build().reused


def test_progress_counts_objects_of_those_expected(setting, monkeypatch):
    bars = []
    real = step_module.bar

    def recorded(label, total, unit):
        bars.append(total)
        return real(label, total, unit)

    monkeypatch.setattr(step_module, "bar", recorded)
    setting.build()
    setting.ask("more", "CONFIG_EXTRA=y\n")
    setting.build("more")
    assert bars == [8, None]  # 3 of the tree, 5 of every link


def test_a_target_that_makes_no_kernel_is_an_error(setting, monkeypatch):
    real = step_module._compile

    def lose(make, *rest):
        count = real(make, *rest)
        (make.build / make.arch.kernel_path).unlink()
        return count

    monkeypatch.setattr(step_module, "_compile", lose)
    with pytest.raises(BuildError, match="ended well but made no"):
        setting.build()
