"""The page of figures, and the measuring of programs."""

import os
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from guestforge.arch import PROVEN
from guestforge.core.errors import BuildError, UserError
from guestforge.core.scratch import scratch_directory
from guestforge.project.layout import FRAGMENTS
from guestforge.release.provenance import Checkout
from tools.bench import agent, boot, build, builds, matrix, scratch_project, tests
from tools.bench.aims import AIMS, aim, limits
from tools.bench.figures import (
    FIGURES,
    HEAD,
    NOT_YET,
    TITLES,
    Aim,
    Figure,
    Section,
    Table,
    formatted,
    missed,
    page,
    render,
    spread,
    write,
)
from tools.bench.host import host_facts
from tools.bench.lanes import Command, Cost, Lane, alone, descendants, in_turn, seconds_of
from tools.bench.scratch_project import ScratchProject

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bench"


def section(key="build", value=1.02):
    figures = (
        Figure("kernel from nothing / plain make", value, "ratio", Aim(1.03), "310.00 s / 304.00 s"),
        Figure("peak memory", 1_400_000, "KiB", Aim(2 * 1024**2, strict=True)),
        Figure("initrd: guest instructions", 570_100_000, "instructions"),
    )
    table = Table("x86_64", (("compiler", "gcc 12"),), figures)
    return Section(key, "2026-01-02 03:04 UTC", (("processors", "2"),), (table,))


def python(code):
    return Command([sys.executable, "-c", code])


def busy(seconds):
    return python(f"import time\nwhile time.process_time() < {seconds}: pass")


def test_a_section_is_rendered():
    assert render(section()) == (GOLDEN / "section.md").read_text()


def test_each_command_replaces_its_own_section_alone():
    both = page(page("", section("build")), section("boot"))
    newer = page(both, section("build", value=1.01))
    assert "| 1.020 |" in both and newer.count("| 1.020 |") == 1  # the one of the boots
    assert newer.index("| 1.010 |") < newer.index("| 1.020 |")
    assert page(newer, section("build")) == both


def test_a_page_has_its_head_once_and_says_what_was_not_measured():
    text = page("", section("boot"))
    assert text.startswith(HEAD)
    assert text.count(NOT_YET) == len(TITLES) - 1
    assert page(text, section("boot")) == text


def test_an_old_head_is_replaced():
    text = page("", section())
    assert page(text.replace(HEAD, "# Something else\n"), section()) == text


def test_the_page_that_is_there_has_the_head_that_a_command_writes():
    assert FIGURES.read_text().startswith(HEAD)


def test_the_page_is_written(tmp_path):
    write(section("boot"), tmp_path / "figures.md")
    write(section("build"), tmp_path / "figures.md")
    assert (tmp_path / "figures.md").read_text() == page(page("", section("boot")), section("build"))


@pytest.mark.parametrize(("value", "met"), [(1.03, True), (1.0301, False)])
def test_a_figure_at_the_limit_is_what_was_aimed_at(value, met):
    assert (missed(section(value=value)) == []) == met
    assert ("**no**" in render(section(value=value))) != met


def test_a_strict_aim_is_missed_at_the_limit():
    assert Aim(8e6, strict=True).met(7_999_999)
    assert not Aim(8e6, strict=True).met(8e6)


def test_what_was_missed_is_named():
    assert missed(section(value=1.5)) == ["x86_64: kernel from nothing / plain make: 1.500, aim at most 1.030"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.0304, "ratio", "1.030"),
        (0.996, "seconds", "1.00 s"),
        (5_630_000, "bytes", "5.63 MB"),
        (24 * 1024, "KiB", "24.0 MiB"),
        (1_234_560_000, "instructions", "1,234.6 million"),
    ],
)
def test_values_are_written_in_their_units(value, unit, text):
    assert formatted(value, unit) == text


def test_a_spread_tells_how_many_there_are():
    assert spread([2.0, 1.0, 4.0], "seconds") == "median of 3, 1.00 s to 4.00 s"


def test_facts_of_the_host_are_there():
    facts = dict(host_facts())
    assert set(facts) == {"processors", "memory", "host kernel", "load in the minute before"}
    assert all(facts.values())


def test_lanes_do_not_work_at_the_same_time(tmp_path):
    """Each of two writes when it was at work; a stopped one writes nothing."""
    code = "import time, sys\nfor _ in range(60): print(sys.argv[1], flush=True); time.sleep(0.01)"
    lanes = [Lane([Command([sys.executable, "-c", code, name])], tmp_path / "log") for name in "ab"]
    in_turn(lanes, turn=0.2)
    told = (tmp_path / "log").read_text().split()
    switches = sum(one != other for one, other in pairwise(told))
    assert told.count("a") == told.count("b") == 60
    assert 2 <= switches <= 12


def test_what_a_lane_starts_is_stopped_with_it_though_its_group_is_another(tmp_path):
    child = f"import time\nfor _ in range(50): open({str(tmp_path / 'beat')!r}, 'a').write('.'); time.sleep(0.01)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], process_group=0, check=True)"
    with closing(Lane([python(parent)], tmp_path / "log")) as lane:
        while not (tmp_path / "beat").exists():
            lane.turn(0.1)
        before = (tmp_path / "beat").read_text()
        time.sleep(0.3)
        assert (tmp_path / "beat").read_text() == before
        lane.turn(30)
        assert lane.done
    assert len((tmp_path / "beat").read_text()) == 50


def test_time_in_which_a_lane_is_stopped_does_not_count(tmp_path):
    one, other = (Lane([busy(0.4)], tmp_path / "log") for _ in range(2))
    start = time.monotonic()
    in_turn([one, other], turn=0.1)
    assert one.cost.seconds + other.cost.seconds <= time.monotonic() - start
    assert one.cost.processor >= 0.4
    assert other.cost.processor >= 0.4


def test_commands_of_a_lane_run_one_after_another(tmp_path):
    alone(python("print('first')"), tmp_path / "log")
    lane = Lane([python("print('second')"), python("print('third')")], tmp_path / "log")
    in_turn([lane])
    assert (tmp_path / "log").read_text().split() == ["first", "second", "third"]


def test_memory_of_children_counts(tmp_path):
    child = "import time; data = b'x' * (64 << 20); time.sleep(1.2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert alone(python(parent), tmp_path / "log").peak_kib > 64 * 1024


@pytest.mark.parametrize("measure", [alone, seconds_of])
def test_a_measured_command_that_fails_is_an_error_with_its_output(tmp_path, measure):
    with pytest.raises(BuildError, match="exit code 3") as caught:
        measure(python("import sys; print('why'); sys.exit(3)"), tmp_path / "log")
    assert "why" in caught.value.excerpt


def test_nothing_of_a_stopped_lane_is_left_when_another_fails(tmp_path):
    sleeper = Lane([python("import time; time.sleep(60)")], tmp_path / "one")
    sleeper.turn(0.1)
    below = descendants(os.getpid())[1:]
    assert below
    with pytest.raises(BuildError):
        in_turn([sleeper, Lane([python("raise SystemExit(1)")], tmp_path / "two")], turn=0.2)
    deadline = time.monotonic() + 10  # a process that was killed is there until somebody has collected it
    while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_a_child_that_is_stopped_ends_itself_when_its_lane_is_closed(tmp_path):
    code = (
        "import pathlib, signal, sys, time\n"
        f"def end(*_): pathlib.Path({str(tmp_path / 'ended')!r}).touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    with closing(Lane([python(code)], tmp_path / "log")) as lane:
        while not (tmp_path / "ready").exists():
            lane.turn(0.1)
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize(("option", "value"), build.CHANGES)
def test_a_fragment_asks_for_each_option_that_is_changed(option, value):
    _, line = build._find(FRAGMENTS, option)
    assert line != build.format_line(option, value)


def test_an_option_that_no_fragment_asks_for_is_an_error():
    with pytest.raises(BuildError, match="CONFIG_NO_SUCH"):
        build._find(FRAGMENTS, "CONFIG_NO_SUCH")


def test_a_line_of_a_fragment_is_replaced_and_put_back(tmp_path):
    path = tmp_path / "some.conf"
    path.write_text("# why\nCONFIG_A=y\nCONFIG_AB=y\n")
    build._put(path, "CONFIG_A=y", "# CONFIG_A is not set")
    assert path.read_text() == "# why\n# CONFIG_A is not set\nCONFIG_AB=y\n"
    build._put(path, "# CONFIG_A is not set", "CONFIG_A=y")
    assert path.read_text() == "# why\nCONFIG_A=y\nCONFIG_AB=y\n"


def boots_of(seconds):
    return [boot.Boot(value, 16_000, 240_000, 130_000, 120_000) for value in seconds]


def test_figures_of_the_matrix_are_against_the_sum_of_the_makes():
    costs = [Cost(100.0, 190.0, 1), Cost(300.0, 500.0, 1)]
    build = Cost(412.0, 700.0, 900_000)
    measured = matrix.Measured(build, dict(zip(PROVEN, costs, strict=False)), [0.9, 0.7, 0.8], {})
    nothing, unchanged, peak = matrix.figures(measured)
    assert nothing.name == "from nothing / 2 plain makes"
    assert nothing.value == 1.03
    each = f"{PROVEN[0].name} 100.00 s, {PROVEN[1].name} 300.00 s"
    assert nothing.note == f"412.00 s / 400.00 s ({each}); processor time 700.00 s / 690.00 s"
    assert unchanged.value == 0.8
    assert peak.value == 900_000


def test_each_aim_of_an_architecture_is_one_of_a_figure_that_is_measured():
    boots = {"initrd": boots_of([1.0]), "image": boots_of([1.0])}
    counted = {"initrd": [1], "image": [1]}
    for arch in PROVEN:
        measured = boot.Measured(arch, boot.Sizes(1, 1, 1), boots, counted)
        figures = [*boot.figures(measured), matrix.check_figure(arch, [1.0])]
        aims = {figure.name: figure.aim for figure in figures if figure.aim is not None}
        assert set(limits()[arch.name]) <= set(aims)
        assert all(aims[name] == Aim(limit) for name, limit in limits()[arch.name].items())
    assert set(limits()) == {arch.name for arch in PROVEN}


def test_nothing_is_asked_of_a_figure_without_an_aim():
    assert aim(PROVEN[0], "initrd") is None
    assert AIMS.is_file()


def test_figures_of_boots_are_medians_and_aims_are_judged():
    boots = {"initrd": boots_of([3.0, 1.0, 2.0]), "image": boots_of([4.0, 5.0, 9.0])}
    counted = {"initrd": [570, 571, 572], "image": [1, 2, 3]}
    measured = boot.Measured(PROVEN[0], boot.Sizes(3_640_000, 1_990_000, 6_090_000), boots, counted)
    figures = {figure.name: figure for figure in boot.figures(measured)}
    assert figures["initrd: agent ready"].value == 2.0
    assert figures["image: agent ready"].value == 5.0
    assert figures["initrd: guest instructions"].value == 571
    assert figures["kernel and initrd"].value == 5_630_000
    assert figures["initrd: guest memory used"].aim.met(figures["initrd: guest memory used"].value)
    assert not figures["initrd: agent ready"].aim.met(2.0)


def test_figures_of_the_agent_are_medians_with_the_late_ones_beside():
    seconds = [0.1] * 98 + [0.5, 0.9]
    measured = agent.Measured(9_000, 31 * 1024, seconds, [0.2, 0.2], [0.3, 0.3], 7_500_000)
    figures = {figure.name: figure for figure in agent.figures(measured)}
    assert figures["exec until its process runs"].value == 0.1
    assert "99th percentile 0.90 s" in figures["exec until its process runs"].note
    assert [figure.name for figure in figures.values() if figure.aim and not figure.aim.met(figure.value)] == [
        "agent's memory, 100 containers"
    ]


def test_figures_of_builds_are_ratios_of_medians():
    change = builds.Change("CONFIG_X")
    for step, make in ((11.0, 10.0), (12.0, 11.0), (99.0, 12.0)):
        change.add(Cost(step, 20.0, 1), Cost(make, 19.0, 1), 7)
    cost = Cost(306.0, 600.0, 900_000)
    measured = builds.Measured(PROVEN[0], "6.12", cost, Cost(300.0, 590.0, 1), 1_000_000, [0.6], [0.9], [change])
    figures = {figure.name: figure for figure in builds.figures(measured)}
    assert figures["kernel from nothing / plain make"].value == 1.02
    changed = figures["CONFIG_X changed / plain make"]
    assert changed.value == 12 / 11
    assert changed.note == "12.00 s / 11.00 s; processor time 20.00 s / 19.00 s; medians of 3, 7 objects compiled"
    assert figures["peak memory"].value == 1_000_000
    assert all(figure.aim.met(figure.value) for figure in figures.values())


def test_a_project_of_ones_own_is_built_in_its_own_cache(tmp_path):
    project = ScratchProject(tmp_path / "scratch", tmp_path / "user")
    command = project.invoke("check", *PROVEN[:2], options=("--jobs", "1"))
    names = f"{PROVEN[0].name},{PROVEN[1].name}"
    assert command.argv[1:4] == ("check", "--arch", names)
    assert command.argv[-2:] == ("--jobs", "1")
    assert str(tmp_path / "scratch" / "cache") in command.env.values()
    assert (project.folder / "guestforge.toml").is_file()
    assert project.fragments.is_dir()


def test_what_was_fetched_is_borrowed_and_stays_when_the_scratch_goes(tmp_path):
    (tmp_path / "user" / "source").mkdir(parents=True)
    (tmp_path / "user" / "source" / "file").touch()
    with scratch_directory("bench-", tmp_path) as scratch:
        scratch_project._borrow(tmp_path / "user" / "source", scratch / "cache" / "source")
        assert (scratch / "cache" / "source" / "file").exists()
    assert (tmp_path / "user" / "source" / "file").exists()
    assert not scratch.exists()


# Lines of a real run, with pytest's colours off
SAID = """\
19:10:53 x86_64 initrd: passed before, with the same artifacts, QEMU and checks
=========== 4,440 things that are no count, 3 passed by ===========
========== 4420 passed, 2 skipped, 3 warnings in 1700.21s (0:28:20) ==========
19:42:13 tests alone: pytest -m alone
======================= 21 passed, 4422 deselected in 71.70s (0:01:11) =======================
19:43:25 lint: passed in 0.3 s
19:43:25 tests: passed in 1701.0 s
19:43:25 tests alone: passed in 73.1 s
"""


def test_what_all_tests_took_is_told_stage_by_stage():
    run = tests.Proof(1800.0, SAID)
    nothing, full = tests.figures(run, tests.Proof(661.0, SAID))
    assert nothing.note == "lint 0.3 s, tests 1701.0 s, tests alone 73.1 s; 4,441 tests"
    assert nothing.aim.met(nothing.value) and not full.aim.met(full.value)


@pytest.mark.parametrize("found", [("0" * 40, False), (None, None)])
def test_tests_are_not_measured_where_files_are_changed_that_no_commit_has(found, monkeypatch):
    monkeypatch.setattr(tests, "find_checkouts", lambda *_: (Checkout("guestforge", *found),))
    with pytest.raises(UserError, match="no commit has") as raised:
        tests.committed()
    assert "commit it first" in raised.value.hint
