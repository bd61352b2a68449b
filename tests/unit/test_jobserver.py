"""The pool of tokens that all programs share, with GNU make as one that takes part."""

import os
import threading
import time
from pathlib import Path

from guestforge.core.jobserver import Jobserver
from guestforge.core.run import run

MAKEFILE = """\
all: 1 2 3 4 5 6
%:
\t@echo + >> log; sleep 0.1; echo - >> log
"""


def at_once(text):
    """The most programs that ran at once, by a line for each beginning and end."""
    running = [0]
    for line in text.split():
        running.append(running[-1] + (1 if line == "+" else -1))
    assert running[-1] == 0
    return max(running)


def make(place, jobs):
    (place / "Makefile").write_text(MAKEFILE)
    done = run(["make", "-C", place], env=jobs.environment, pass_fds=jobs.descriptors)
    assert "jobserver unavailable" not in done.output
    return done


def test_make_runs_as_many_as_there_are_tokens_and_one(tmp_path):
    jobs = Jobserver(3)
    make(tmp_path, jobs)
    assert at_once((tmp_path / "log").read_text()) == 3
    assert [jobs.take() for _ in range(3)] == [True, True, False]


def test_what_we_have_taken_make_goes_without(tmp_path):
    jobs = Jobserver(3)
    assert jobs.take()
    make(tmp_path, jobs)
    assert at_once((tmp_path / "log").read_text()) == 2


def test_two_makes_share_one_number(tmp_path):
    jobs = Jobserver(3)
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
        (place / "log").symlink_to(tmp_path / "log")
    assert jobs.take()  # the second make's own
    threads = [threading.Thread(target=make, args=(place, jobs)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at_once((tmp_path / "log").read_text()) == 3


def test_a_single_job_has_no_token_to_give():
    jobs = Jobserver(1)
    assert not jobs.take()
    with jobs.borrowed() as few:
        assert few == 1


def test_what_is_borrowed_comes_back():
    jobs = Jobserver(4)
    assert jobs.take()
    with jobs.borrowed() as few:
        assert few == 3
        assert not jobs.take()
    assert jobs.take()


def test_tokens_of_a_killed_program_are_restored():
    jobs = Jobserver(3)
    assert jobs.take()
    assert jobs.take()
    jobs.restore()
    assert [jobs.take() for _ in range(3)] == [True, True, False]


def test_a_token_that_is_given_wakes_who_waits():
    jobs = Jobserver(2)
    assert jobs.take()
    before = time.monotonic()
    threading.Timer(0.05, jobs.give).start()
    while not jobs.take():
        os.sched_yield()
    assert time.monotonic() - before >= 0.04


def test_descriptors_are_closed_with_the_pool():
    jobs = Jobserver(2)
    descriptors = (*jobs.descriptors, jobs.waiting)
    del jobs
    assert not any(Path(f"/proc/self/fd/{number}").exists() for number in descriptors)
