"""Progress as lines of a log: what a bar says when nobody can see it move."""

import re

import pytest

from guestforge.cli import render
from guestforge.core import events, progress


@pytest.fixture
def log(monkeypatch, capsys):
    """What has been printed, where standard error is no terminal and every step is worth a line."""
    monkeypatch.setattr(render, "LINE_INTERVAL", 0.0)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)

    def lines():
        return capsys.readouterr().err.splitlines()

    with events.shown_by(render.Log()):
        yield lines


def test_lines_have_the_time_of_day(log):
    progress.say("done")
    assert re.fullmatch(r"\d\d:\d\d:\d\d done", log()[0])


def test_a_bar_tells_how_far_it_is(log):
    with progress.bar("compiling", 300, "objects") as bar:
        bar.update(100)
    assert [line[9:] for line in log()] == ["compiling: 100 objects of 300 objects"] * 2


def test_an_estimate_that_was_too_low_is_not_told(log):
    with progress.bar("compiling", 300, "objects") as bar:
        bar.update(301)
    assert {line[9:] for line in log()} == {"compiling: 301 objects"}


def test_bytes_are_scaled(log):
    with progress.bar("fetching", 3 * 1024 * 1024, "B") as bar:
        bar.update(1536 * 1024)
    assert log()[0].endswith("fetching: 1.5 MiB of 3.0 MiB")


def test_a_step_tells_its_seconds_and_an_interrupted_one_does_not(log):
    with progress.step("packing"):
        pass
    with pytest.raises(KeyboardInterrupt), progress.step("packing"):
        raise KeyboardInterrupt
    assert sum("done in" in line for line in log()) == 1
