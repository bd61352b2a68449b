"""A CI job's log: what folds, which error is marked where, and that nothing a guest says is a command to the system."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY
from ci_repository import write
from hypothesis import example, given
from hypothesis import strategies as st

from guestforge.cli.ci_log import MAX_LINES, CiLog, in_ci
from guestforge.cli.location import Location, locations
from guestforge.cli.platform import MAX_MESSAGE, MOST, GitHub, GitLab, harmless
from guestforge.cli.render import JsonLines
from guestforge.core.errors import BuildError, CheckError, UserError
from guestforge.core.events import Began, Ended, Finished, Listed, Said, shown_by
from guestforge.core.progress import complain
from guestforge.kernel.fragment import parse_fragment
from guestforge.project.load import parse
from guestforge.project.models import Guest

EVIL = (
    "::error::x", "  ::add-mask::a", "\t::stop-commands::t", "a\r::error::b", "##[error]c", "d ##[add-path]/e",
    "#\r##[f]", "\x1b[0Ksection_end:1:guestforge_1_a\r\x1b[0K",
    "\u2028::error::g", "\x0b::error::h", "\xa0::error::i", "\x85::error::j",
)  # fmt: skip


@pytest.fixture
def top(tmp_path):
    write(tmp_path / "recipes" / "guests" / "one.toml", "a = 1\n")
    write(tmp_path / "kernel-configs" / "common" / "b.conf", "CONFIG_A=y\n")
    return tmp_path


def log(top, platform=None, summary=None):
    return CiLog(platform or GitHub(), top, (top,), summary)


def shown(show, capsys, *events):
    for event in events:
        show(event)
    out, err = capsys.readouterr()
    assert not out
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in err.split("\n")[:-1]]


def complained(error, subject=""):
    seen = []
    with shown_by(seen.append):
        complain(error, subject)
    return seen[0]


def as_commands(text):
    """The lines that GitHub's runner takes for commands: it reads lines, and trims blanks, as .NET does."""
    lines = re.split(r"\r\n|\r|\n", text)
    return [line for line in lines if re.match(r"[\s\x85\xa0]*::", line) or "##[" in line]


# what folds


def test_lines_stand_in_a_group_of_the_steps_that_are_being_made(top, capsys):
    events = [
        Said("before"), Began("kernel"), Said("one"), Began("agent"), Said("two"), Said("three"),
        Ended("agent", "built"), Said("four"), Ended("kernel", "built"), Ended("x", "reused"), Said("after"),
        Finished((Ended("kernel", "built"),)),
    ]  # fmt: skip
    assert shown(log(top), capsys, *events) == [
        "before",
        "::group::kernel", "one", "::endgroup::",
        "::group::kernel, agent", "two", "three", "::endgroup::",
        "::group::kernel", "four", "::endgroup::",
        "after",
        "what became of each step:", "  kernel  built",
    ]  # fmt: skip


def test_a_step_that_says_nothing_has_no_group(top, capsys):
    assert shown(log(top), capsys, Began("kernel"), Ended("kernel", "built")) == []


def test_gitlab_has_sections_with_names_of_their_own(top, capsys):
    events = [Began("x86_64 kernel"), Said("one"), Ended("x86_64 kernel", "built")]
    found = shown(log(top, GitLab()), capsys, *events, *events)
    starts = [re.fullmatch(r"\x1b\[0Ksection_start:\d+:(\w+)\r\x1b\[0Kx86_64 kernel", line) for line in found[::3]]
    ends = [re.fullmatch(r"\x1b\[0Ksection_end:\d+:(\w+)\r\x1b\[0K", line) for line in found[2::3]]
    names = [start[1] for start in starts]
    assert names == [end[1] for end in ends] and len(set(names)) == 2
    assert found[1::3] == ["one", "one"]


def test_an_error_stands_outside_of_groups(top, capsys):
    events = [Began("kernel"), Said("one"), complained(BuildError("no", hint="h"), "kernel"), Said("two")]
    assert shown(log(top), capsys, *events) == [
        "::group::kernel", "one", "::endgroup::", "::error::kernel: no", "kernel: error: no", "hint: h",
        "::group::kernel", "two",
    ]  # fmt: skip


# which error is where


def marked(top, capsys, error, subject=""):
    return [line for line in shown(log(top), capsys, complained(error, subject)) if line.startswith("::error")]


def test_a_recipe_that_is_wrong_is_marked_at_its_line(top, capsys):
    path = top / "recipes" / "guests" / "one.toml"
    for text, place in (("kernel = 1\nx = 2\n", ["1", "2", ""]), ("a = 1\nb = \n", ["2"])):
        with pytest.raises(UserError) as error:
            parse(Guest, text, str(path))
        lines = marked(top, capsys, error.value)
        file = "file=recipes/guests/one.toml"
        found = [re.match(rf"::error {file}(?:,line=(\d+))?::\S", line)[1] or "" for line in lines]
        assert sorted(set(found)) == sorted(place), lines


def test_a_fragment_that_is_wrong_is_marked_at_its_line(top, capsys):
    with pytest.raises(UserError) as error:
        parse_fragment("CONFIG_A=y\nnonsense\n", "kernel-configs/common/b.conf")
    (line,) = marked(top, capsys, error.value, "kernel")
    assert line.startswith("::error file=kernel-configs/common/b.conf,line=2::kernel: ")


def test_what_kconfig_has_dropped_is_marked_at_each_line_that_asks_for_it(top, capsys):
    excerpt = "kernel-configs/common/b.conf:1: CONFIG_A: wanted y, got n\n    depends on B\nkernel-configs/x.conf:2: no"
    assert marked(top, capsys, BuildError("not what was asked for", excerpt=excerpt)) == [
        "::error file=kernel-configs/common/b.conf,line=1::CONFIG_A: wanted y, got n"
    ]


def test_what_a_guest_says_is_no_place(top, capsys):
    error = CheckError("boot check failed", excerpt="kernel-configs/common/b.conf:1: mine")
    assert marked(top, capsys, error, "x86_64") == ["::error::x86_64: boot check failed"]


def test_a_place_is_a_file_of_the_clone(top):
    (top / "link").symlink_to("/etc/passwd")
    text = "\n".join(["/etc/passwd:1: a", "../x:1: b", "link:1: c", "recipes:1: d", "a\0b:1: e", f"{'n' * 5000}:1: f"])
    assert list(locations(text, top, (top,))) == []
    good = f"{top}/recipes/guests/one.toml:7:3: said"
    assert list(locations(good, top, (top,))) == [(Location(Path("recipes/guests/one.toml"), 7), "said")]
    many = "\n".join(f"recipes/guests/one.toml:{number}: x" for number in range(1, 100))
    assert len(list(locations(many, top, (top,)))) == MOST


def test_no_more_errors_are_marked_than_github_shows(top, capsys):
    show = log(top)
    for _ in range(MOST + 5):
        show(complained(BuildError("no")))
    err = capsys.readouterr().err
    assert err.count("::error::") == MOST and err.count("error: no") == MOST + 5


def test_what_an_annotation_says_is_escaped_and_bounded():
    github = GitHub()
    line = github.error("50%\nof: a, b\r", Location(Path("a,b:c%.toml"), 3))
    assert line == r"::error file=a%2Cb%3Ac%25.toml,line=3::50%25%0Aof: a, b\r"
    assert github.error("no", Location(Path("a"), 0)) == "::error file=a::no"
    assert len(github.error("x" * 10_000, None)) <= MAX_MESSAGE + 20


# the summary


def test_an_error_of_a_build_goes_to_the_jobs_summary_and_one_of_a_check_does_not(top):
    summary = top / "summary.md"
    show = log(top, summary=summary)
    show(complained(BuildError("no", excerpt="\n".join(f"``` {number}" for number in range(200))), "x86_64 kernel"))
    show(complained(CheckError("a check"), "x86_64"))
    lines = summary.read_text().splitlines()
    assert lines[0] == "### ❌ x86&#95;64 kernel" and lines[1] == "````text" and lines[-2] == "````"
    assert MAX_LINES // 2 < len(lines) <= MAX_LINES + 4 and "``` 199" in lines[-3]
    assert "a check" not in summary.read_text()


def test_a_summary_that_can_not_be_written_ends_nothing(top, capsys):
    lines = shown(log(top, summary=top / "a" / "b"), capsys, complained(BuildError("no")))
    assert any("No such file" in line for line in lines)


def test_a_summary_has_no_more_errors_than_are_marked(top):
    show = log(top, summary=top / "summary.md")
    for _ in range(MOST + 5):
        show(complained(BuildError("no")))
    assert (top / "summary.md").read_text().count("###") == MOST


# what a guest says


@pytest.mark.parametrize("platform", [GitHub, GitLab])
@pytest.mark.parametrize("evil", EVIL)
def test_no_event_can_carry_a_command(top, capsys, platform, evil):
    show = CiLog(platform(), top, (top,))
    for event in (
        Said(evil), Said(f"a\n{evil}"), complained(BuildError(evil, excerpt=f"{evil}\n{evil}", hint=evil), evil),
        Listed(evil, "file", 0o644), Finished((Ended(evil, "failed", why=evil),)),
        Began(evil), Said("a"), Ended(evil, "built"),
    ):  # fmt: skip
        show(event)
    out, err = capsys.readouterr()
    ours = ("::group::", "::endgroup::", "::error::")
    assert [line for line in as_commands(out + "\n" + err) if not line.startswith(ours)] == []
    markers = re.findall(r"\x1b\[0Ksection_(?:start|end):\d+:\w+\r\x1b\[0K", err)
    assert len(markers) == err.count("\r") == (2 if platform is GitLab else 0)
    assert err.count("\x1b") == 2 * len(markers)


@given(st.text(alphabet=st.one_of(st.sampled_from(":# [\r\n\t\x1b\xa0\u3000"), st.characters())))
@example("#::##[::")
@example(" :::::")
@example("###[[")
def test_nothing_is_a_command_any_more(text):
    assert as_commands(harmless(text)) == []
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f]*", harmless(text))


def test_what_is_no_command_is_left_as_it_is():
    text = "12:00:00 std::vector: a::b\n    C++ ## [x] # [y] ü ❌"
    assert harmless(text) == text


def test_lines_of_json_hold_no_command():
    out = io.StringIO()
    for evil in EVIL:
        JsonLines(out)(Said(evil))
    assert as_commands(out.getvalue()) == []
    assert [json.loads(line)["text"] for line in out.getvalue().splitlines()] == list(EVIL)


# which system it is


def test_a_system_is_known_by_its_variable():
    assert in_ci({}) is None and in_ci({"GITHUB_ACTIONS": "false"}) is None
    assert isinstance(in_ci({"GITHUB_ACTIONS": "true"}), CiLog) and isinstance(in_ci({"GITLAB_CI": "true"}), CiLog)


@pytest.mark.parametrize("root", ["", "my"])
def test_a_task_marks_a_recipe_of_the_project_that_it_is_told_of(tmp_path, root):
    write(tmp_path / root / "guestforge.toml", 'guest = "one"\n[ci]\nrunner = 7\n')
    env = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GUESTFORGE_CACHE": str(tmp_path / "cache"),
        "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(tmp_path), "GUESTFORGE_PROJECT": root or ".",
    }  # fmt: skip
    invoke = [Path(sys.executable).with_name("invoke"), "--search-root", REPOSITORY, "ci.matrix"]
    done = subprocess.run(invoke, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    file = f"{root}/guestforge.toml".lstrip("/")
    assert done.stderr.startswith(f"::error file={file},line=3::ci.runner: ")
