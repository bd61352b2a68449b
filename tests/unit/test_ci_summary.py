"""`ci.summary`: what became of the guests as Markdown, whatever a guest has said, and however much of it there is."""

import html
import json
import re

import pytest
from ci_repository import write
from hypothesis import given
from hypothesis import strategies as st

from guestforge.check.report import CheckResult, Measurements, Phases, Qemu, Report, write_report
from guestforge.check.table import printable
from guestforge.ci.markdown import DETAIL, LINE, block, cell
from guestforge.ci.reports import LIMIT, MOST, read_guests
from guestforge.ci.summary import CUT, MAX_BYTES, MAX_LINES, NONE, summary
from guestforge.core.errors import UserError

PASSED = CheckResult("kernel-up", "pass", 0.51, "Linux version 6.12")
PANIC = CheckResult("agent-ready", "fail", 60.0, "nothing in 60 s\n[ 1.0] Oops\n[ 1.1] Kernel panic - not syncing")
SKIPPED = CheckResult("container", "skip", 0.0, "the agent is not there")
EXCUSED = CheckResult("virtio-9p", "skip", 0.0, "not asked for", excused=True)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def report_in(output, *checks, arch="x86_64", guest="one", artifact="initrd", ready=1.5):
    """Write a report as a check does."""
    report = Report(
        arch, guest, artifact, "tcg", "asked for", checks, Phases(agent_ready=ready), Measurements(), Qemu("9", ())
    )
    place = output / arch / guest / "check" / artifact
    place.mkdir(parents=True, exist_ok=True)
    write_report(report, place / "report.json")
    return place / "report.json"


def manifest_in(output, arch="x86_64", guest="one", **sizes):
    write(
        output / arch / guest / "manifest.json", json.dumps({"artifacts": {n: {"size": s} for n, s in sizes.items()}})
    )


def made(output):
    return summary(read_guests(output))


# what it says


def test_there_are_tables_of_boots_files_and_checks(output):
    report_in(output, PASSED, EXCUSED)
    report_in(output, PASSED, artifact="image", ready=None)
    manifest_in(output, kernel=4895744)
    lines = made(output).splitlines()
    assert "| one x86&#95;64 initrd | ✅ pass | 1 of 2 | 1.50 s |  | tcg |" in lines
    assert "| one x86&#95;64 image | ✅ pass | 1 of 1 |  |  | tcg |" in lines
    assert "| one x86&#95;64 | kernel | 4.7 MiB |" in lines
    assert "| kernel-up | ✅ pass | 0.51 s | Linux version 6.12 |" in lines
    assert "❌" not in made(output)


def test_what_failed_comes_first_with_the_lines_of_the_console_that_show_it(output):
    report_in(output, PASSED, PANIC, SKIPPED)
    lines = made(output).splitlines()
    assert lines[:6] == [
        "### ❌ one x86&#95;64 initrd: agent-ready",
        "reason: nothing in 60 s",
        "```text",
        "[ 1.0] Oops",
        "[ 1.1] Kernel panic - not syncing",
        "```",
    ]
    assert sum(line.startswith("###") and "❌" in line for line in lines) == 1  # what is skipped is a consequence


def test_what_was_skipped_is_told_where_nothing_failed(output):
    report_in(output, PASSED, SKIPPED, EXCUSED)
    assert next(line for line in made(output).splitlines() if "❌" in line).endswith(": container")
    assert "### ❌ one x86&#95;64 initrd: virtio-9p" not in made(output)


def test_a_guest_whose_build_failed_has_no_files_and_nothing_at_all_is_said(output):
    assert made(output) == NONE
    report_in(output, PASSED)
    assert "| guest | file |" not in made(output)


# what a guest says


@given(st.text())
def test_a_cell_is_nothing_but_its_text(text):
    shown = cell(text)
    assert not re.search(r"[\\`*_{}\[\]()<>#+!|~@:$^=\n]|&(?!#)|www\.", re.sub(r"&#\d+;", "", shown))
    assert html.unescape(shown) == printable(text) or len(printable(text)) > DETAIL


@given(st.lists(st.text(alphabet="`~|<a\n\r\x1b:")))
def test_no_line_ends_a_fence(lines):
    fence, *shown, end = block(lines).split("\n")
    assert fence == f"{end}text" and len(shown) == len(lines)
    assert not any(end in line for line in shown)


def test_a_guest_can_neither_end_its_cell_nor_its_block(output):
    evil = "x | y <img src=a> [a](http://b) @all\n```\n</details>\n# title\n::error::x"
    report_in(output, CheckResult("one", "fail", 1.0, evil))
    lines = made(output).splitlines()
    at = lines.index("````text")
    assert lines[at : at + 6] == ["````text", "```", "</details>", "# title", "::error::x", "````"]
    rest = "\n".join(lines[:at] + lines[at + 6 :])
    assert not any(word in rest for word in ("<img", "](", "@all", "http:", "x | y"))


def test_what_is_long_is_cut_at_the_end_of_a_part(output):
    long = "\n".join(["first", *(f"{number} " + "`" * 1000 for number in range(200))])
    for number in range(80):
        report_in(output, CheckResult("one", "fail", 1.0, long), guest=f"guest{number:02}")
    text = made(output)
    assert len(text.encode()) <= MAX_BYTES + len(CUT.encode()) and text.endswith(CUT)
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert len(fences) % 2 == 0 and len(fences) > 2
    first = text.split("\n\n")[0].splitlines()
    assert len(first) == 2 + 2 + MAX_LINES and max(map(len, first)) <= LINE + 10
    assert "199 " in first[-2]


# what is no report


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "the whole file: Invalid JSON"),
        ("[]", "the whole file: "),
        ('{"arch": 1}', "arch: "),
        ("[" * 100_000, "the whole file: "),
        ("x" * (LIMIT + 1), "larger than"),
    ],
)
def test_a_report_that_is_none_is_an_error_with_its_name(output, text, says):
    path = report_in(output, PASSED)
    write(path, text)
    with pytest.raises(UserError) as error:
        made(output)
    assert error.value.message.startswith(str(path)) and says in error.value.message


def test_a_report_with_numbers_that_are_none_is_refused(output):
    path = report_in(output, PASSED)
    for value in ("NaN", "1e999", "-1"):
        write(path, path.read_text().replace("0.51", value))
        with pytest.raises(UserError, match="seconds"):
            made(output)
        report_in(output, PASSED)


def test_a_link_or_a_folder_in_a_reports_place_is_refused(output, tmp_path):
    path = report_in(output, PASSED)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="this is no file"):
        made(output)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="this is no file"):
        made(output)


def test_more_reports_than_any_matrix_has_are_refused(output):
    for number in range(MOST + 1):
        write(output / "x86_64" / "one" / "check" / str(number) / "report.json", "{}")
    with pytest.raises(UserError, match="more than"):
        read_guests(output)
