"""When what was read of a file may be kept: a later change must show in its time of change."""

import os
from pathlib import Path

import pytest

from guestforge.testing.shares import serving
from guestforge.vhost.fs.fuse import shown
from guestforge.vhost.fs.fuse.changes import each_shows, settled, tells


@pytest.mark.parametrize(
    ("changed", "after", "expected"),
    [
        (10**18 + 1, 10_000_000, False), (10**18 + 1, 60_000_000, True),  # a tick of HZ=100, and more
        (10**18, 60_000_000, False), (10**18, 1_999_999_999, False), (10**18, 2_000_000_001, True),  # whole seconds
        (10**18 + 1, -5, False),  # the clock was set back
    ],
)  # fmt: skip
def test_a_file_is_remembered_once_a_change_would_show(changed, after, expected):
    assert settled(changed, changed + after) is expected


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("times", "seconds", "expected"),
    [
        ([1, 2, 3, 4], 0.003, True),
        ([1, 2, 3, 3], 0.003, False), ([1, 1, 2, 3], 0.003, False), ([5] * 4, 0.003, False),  # a tick's
        ([1, 2, 3, 4], 0.004, False),  # each may be of another tick
    ],
)  # fmt: skip
def test_times_that_all_differ_within_a_tick_are_not_the_tick_s(times, seconds, expected):
    assert tells(times, seconds, 0.004) is expected


def test_nothing_is_left_of_the_file_that_it_is_tried_with(directory, tmp_path):
    before = tmp_path.stat().st_mtime_ns, len([*Path("/proc/self/fd").iterdir()])
    each_shows(directory)
    assert not list(tmp_path.iterdir())
    assert before == (tmp_path.stat().st_mtime_ns, len([*Path("/proc/self/fd").iterdir()]))


def test_a_file_system_that_can_t_be_tried_is_a_tick_s():
    descriptor = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        assert not each_shows(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("shows", [True, False])
def test_a_new_file_s_list_is_looked_for_once_where_each_change_shows(tmp_path, monkeypatch, shows):
    looks = []
    plain = shown.narrowed
    monkeypatch.setattr(shown, "narrowed", lambda file, mode: looks.append(file) or plain(file, mode))
    monkeypatch.setattr("guestforge.vhost.fs.fuse.share.each_shows", lambda _: shows)
    monkeypatch.setattr(shown, "settled", lambda *_: False)
    with serving(tmp_path) as client:
        node = client.create(b"new", "O_RDWR", mode=0o666).node
        for _ in range(3):
            client.getattr(node)
    assert len(looks) == (1 if shows else 4)
