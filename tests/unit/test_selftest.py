"""`./invoke test`: every stage runs, and any that fails is the run's failure."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.arch import ARCHES, PROVEN
from guestforge.core.errors import BuildError
from guestforge.host.selftest import SECONDS_ONLY, Stage, needs, run_stages, stages
from guestforge.project.option import read
from guestforge.project.options import TESTED, SelftestOptions

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_failed_stage_is_named_and_the_others_run():
    ran = []

    def run(stage):
        ran.append(stage.name)
        return 1 if stage.name == "types" else 0

    with pytest.raises(BuildError) as caught:
        run_stages(stages(PROVEN, fast=True), run)
    assert caught.value.message == "types failed"
    assert ran == ["lint", "format", "types", "tests", "tests alone"]


def test_nothing_is_raised_when_all_pass():
    run_stages((Stage("lint", ("true",)),), lambda _: 0)


def test_ctrl_c_ends_the_stages_and_is_no_failure_of_one():
    ran = []

    def run(stage):
        ran.append(stage.name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(stages(PROVEN, fast=True), run)
    assert ran == ["lint"]


def test_what_is_tested_is_built_as_users_build_it():
    builds = [stage.argv for stage in stages(PROVEN[:2], fast=False) if stage.name == "builds"]
    assert builds == [("invoke", "build", "--arch", f"{PROVEN[0].name},{PROVEN[1].name}")]
    assert not [stage for stage in stages(PROVEN, fast=True) if stage.name == "builds"]


def test_only_fast_leaves_tests_out():
    selected = {fast: [stage.argv[-1] for stage in stages(PROVEN, fast=fast) if "-m" in stage.argv] for fast in (0, 1)}
    assert selected == {
        False: ["not alone", "alone"],
        True: [f"({SECONDS_ONLY}) and not alone", f"({SECONDS_ONLY}) and alone"],
    }


def test_a_worker_for_each_processor_and_none_for_a_single_one(monkeypatch):
    for processors, workers in ({0}, "0"), ({0, 3, 5}, "3"):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, found=processors: found)
        (tests,) = (stage.argv for stage in stages(PROVEN, fast=True) if stage.name == "tests")
        assert tests[tests.index("--numprocesses") + 1] == workers


def test_compilers_are_installed_for_what_is_built_alone():
    one = PROVEN[0]
    compilers = {f"{arch.cross_prefix}gcc" for arch in ARCHES.values()}
    assert compilers & {need.tool for need in needs((one,), fast=False)} == {f"{one.cross_prefix}gcc"}
    assert compilers <= {need.tool for need in needs(tuple(ARCHES.values()), fast=False)}


def test_architectures_are_the_options_else_the_environments_else_all_that_are_proven(monkeypatch):
    monkeypatch.delenv(TESTED, raising=False)
    assert read(SelftestOptions, {}).arches == PROVEN
    monkeypatch.setenv(TESTED, "s390x")
    assert read(SelftestOptions, {}).arches == (ARCHES["s390x"],)
    assert read(SelftestOptions, {"arch": "arm64"}).arches == (ARCHES["aarch64"],)


def test_no_emulator_is_installed_for_fast_tests():
    emulators = {arch.qemu for arch in ARCHES.values()}
    assert not emulators & {need.tool for need in needs(PROVEN, fast=True)}
    assert emulators <= {need.tool for need in needs((PROVEN[0],), fast=False)}


WRONG = """
import pytest

def test_wrong():
    assert 1 == 2

@pytest.mark.alone
def test_right():
    pass
"""


@pytest.mark.slow
def test_a_test_that_fails_is_the_exit_code_of_the_command(tmp_path):
    """The real command on a checkout with one wrong test."""
    clone = tmp_path / "clone"
    for name in ("guestforge", "recipes"):
        shutil.copytree(REPOSITORY / name, clone / name)
    for name in ("tasks.py", "pyproject.toml", "guestforge.toml"):
        shutil.copy(REPOSITORY / name, clone)
    (clone / "tests").mkdir()
    (clone / "tests" / "test_wrong.py").write_text(WRONG)
    done = subprocess.run(
        [Path(sys.executable).with_name("invoke"), "--search-root", clone, "test", "--fast"],
        cwd=clone,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "tests failed" in done.stderr
    assert "Traceback" not in done.stderr
