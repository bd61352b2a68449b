"""Signals that end a task: the first counts, those that follow while it ends are no news."""

import signal
import time

import pytest

from guestforge import cli


@pytest.fixture
def interrupt():
    return cli._Interrupted()


def test_first_signal_ends_the_task(interrupt):
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGTERM, None)


def test_second_signal_does_not_break_off_the_end(interrupt):
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
    interrupt(signal.SIGINT, None)
    interrupt(signal.SIGTERM, None)


def test_end_that_takes_too_long_can_be_interrupted(interrupt, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + cli.PATIENCE + 1)
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
