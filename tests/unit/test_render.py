"""Events as a terminal, a log and a program see them."""

import io
import json
import pickle
import re

import pytest

from guestforge.agent.errors import Code, RpcError
from guestforge.cli import render
from guestforge.core import events, progress
from guestforge.core.errors import BuildError, CheckError, UserError
from guestforge.core.events import Advanced, Began, Complained, Ended, Finished, Foretold, Listed, Said
from guestforge.vmm.errors import MachineError

ALL = (
    Said("hello"),
    Advanced((1, 2), "fetching", 5, None, "B"),
    Began("x86_64 kernel"),
    Ended("x86_64 kernel", "built", 1.5),
    Complained("x86_64", "error: no", "no", 2),
    Finished((Ended("x86_64 kernel", "built", 1.5),)),
    Foretold("x86_64 kernel", "depends", ("source x",)),
    Listed("/dev/vda", "block", 0o600, device=(254, 0)),
)


def test_every_event_is_a_line_of_json():
    out = io.StringIO()
    show = render.JsonLines(out)
    for event in ALL:
        show(event)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "log", "progress", "started", "done", "error", "finished", "foretold", "node",
    ]  # fmt: skip
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["time"]) for line in lines)
    assert lines[1]["bar"] == [1, 2]
    assert lines[5]["steps"] == [{"step": "x86_64 kernel", "state": "built", "seconds": 1.5, "why": ""}]
    assert lines[7]["device"] == [254, 0]
    assert lines[7]["target"] is None


@pytest.mark.parametrize("renderer", [render.Log, render.Terminal])
def test_people_are_told_what_matters_to_them(renderer, capsys):
    show = renderer()
    for event in ALL:
        show(event)
    show(Advanced((1, 2), "fetching", 6, None, "B", over=True))
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{'x86_64 kernel':<34} depends on source x", "b0600    254,0 /dev/vda"]
    assert "hello" in err
    assert "x86_64: error: no" in err
    assert "x86_64 kernel  built        1.5 s" in err


@pytest.mark.parametrize(
    "node, line",
    [
        (Listed("/a", "file", 0o755, size=0), "-0755        0 /a"),
        (Listed("/b", "directory", 0o1777), "d1777        - /b"),
        (Listed("/c", "symlink", 0o777, target="a"), "l0777        - /c -> a"),
        (Listed("/d", "char", 0o666, device=(1, 3)), "c0666      1,3 /d"),
    ],
)
def test_a_node_is_a_line_as_ls_has_it(node, line):
    assert render.answer(node) == line


@pytest.mark.parametrize(
    "state, missing, line",
    [
        ("reused", (), "arch kernel                        reused"),
        ("made", (), "arch kernel                        would be made"),
        ("depends", ("a", "b"), "arch kernel                        depends on a, b"),
    ],
)
def test_what_would_become_of_a_step_is_a_line(state, missing, line):
    assert render.answer(Foretold("arch kernel", state, missing)) == line


def test_an_error_is_no_line_of_the_log(capsys):
    render.Log()(Complained("", "error: no\nhint: yes", "no", 2))
    assert capsys.readouterr().err == "error: no\nhint: yes\n"


def test_the_table_has_a_line_for_each_step():
    steps = (
        Ended("a", "reused"),
        Ended("long name", "failed", 2.25, "it broke\nin two lines"),
        Ended("c", "skipped", why="w"),
    )
    assert render.table(steps).splitlines() == [
        "  a          reused",
        "  long name  failed       2.2 s  it broke",
        "  c          skipped             w",
    ]


def test_bars_of_several_processes_are_told_apart(capsys, monkeypatch):
    monkeypatch.setattr(render, "LINE_INTERVAL", 0.0)
    show = render.Log()
    for pid in (1, 2):
        show(Advanced((pid, 0), f"of {pid}", pid, 9, "objects"))
    for pid in (1, 2):
        show(Advanced((pid, 0), f"of {pid}", 9, 9, "objects", over=True))
    assert [line[9:] for line in capsys.readouterr().err.splitlines()] == [
        "of 1: 1 objects of 9 objects", "of 2: 2 objects of 9 objects",
        "of 1: 9 objects of 9 objects", "of 2: 9 objects of 9 objects",
    ]  # fmt: skip


def test_an_errors_text_is_where_events_go():
    seen = []
    with events.shown_by(seen.append):
        progress.complain(UserError("no", hint="yes"), "x86_64")
    assert seen == [Complained("x86_64", "error: no\nhint: yes", "no", 1)]


@pytest.mark.parametrize(
    "error",
    [
        UserError("m", hint="h"), BuildError("m", excerpt="e"), CheckError("m", hint="h", excerpt="e"),
        MachineError("qemu-exited", "m", excerpt="e"), RpcError("Exec", Code.NOT_FOUND, "m"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_error_is_the_same_in_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.report(), again.exit_code, vars(again)) == (
        type(error), error.report(), error.exit_code, vars(error),
    )  # fmt: skip
