"""What all tests share: which come first, how hypothesis looks for examples, which signals end us and what we start."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A slow machine is no failure. CI tries the same examples each time, so that a change is judged by what it changed;
# elsewhere each run tries others, and what it finds becomes a test of its own.
settings.register_profile("here", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.load_profile("ci" if "CI" in os.environ else "here")

# Started by nohup or in a shell's background, we would hand ignored signals on to what the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest, or one worker is at it long after the others have nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="module")
def open_place() -> Iterator[Path]:
    """A directory that all users get to, such as apt's own: pytest's are ours alone."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)
