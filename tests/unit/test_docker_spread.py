"""Architectures spread over engines that work, fail, and go away."""

import threading
import time

import pytest

from guestforge.core.errors import BuildError, CheckError
from guestforge.docker.container import show
from guestforge.docker.engine import Engine, EngineGoneError
from guestforge.docker.spread import spread

ARCHES = ("x86_64", "aarch64", "ppc64le", "s390x")


def engines(*names):
    return [Engine(None, name, is_here=False, options=()) for name in names]


def spread_all(do, *names, stop=lambda: None):
    return spread(ARCHES, engines(*names), do, str, stop)


def test_each_engine_does_one_at_a_time_and_all_is_done_once():
    now, most, done = {}, [], []
    lock = threading.Lock()

    def do(engine, arch):
        with lock:
            now[engine.address] = now.get(engine.address, 0) + 1
            most.append(dict(now))
        time.sleep(0.05)
        with lock:
            now[engine.address] -= 1
            done.append(arch)
        return 0

    assert spread_all(do, "a", "b") == 0
    assert sorted(done) == sorted(ARCHES)
    assert max(count for each in most for count in each.values()) == 1
    assert {"a": 1, "b": 1} in most


def test_the_worst_code_is_the_codes_and_a_failure_costs_its_own_only(capsys):
    def do(_, arch):
        if arch == "aarch64":
            raise CheckError("no boot")
        return 2 if arch == "s390x" else 0

    assert spread_all(do, "a", "b") == 3
    assert "error: no boot" in capsys.readouterr().err


def test_what_a_lost_engine_had_is_done_elsewhere(capsys):
    done = []

    def do(engine, arch):
        if engine.address == "b":
            raise EngineGoneError("running in the container: the engine at b went away")
        time.sleep(0.02)
        done.append(arch)
        return 0

    assert spread_all(do, "a", "b") == 0
    assert sorted(done) == sorted(ARCHES)
    said = capsys.readouterr().err
    assert said.count("at b\n") == 1  # it is asked once
    assert "went away" in said


def test_no_engine_left():
    def do(engine, _):
        raise EngineGoneError(f"the engine at {engine.address} went away")

    with pytest.raises(BuildError, match="no engine is left for") as caught:
        spread_all(do, "a", "b")
    assert "x86_64" in caught.value.message
    assert "what was built is kept" in caught.value.report()


def test_ctrl_c_stops_what_runs():
    over = threading.Event()

    def do(_, arch):
        if arch == "x86_64":
            raise KeyboardInterrupt
        assert over.wait(10)
        return 130

    with pytest.raises(KeyboardInterrupt):
        spread_all(do, "a", "b", stop=over.set)
    assert over.is_set()


def test_output_side_by_side_is_whole_lines(capfdbinary):
    show(iter([(b"on", None), (b"e\ntw", b"err\n"), (b"o", b"last")]), "x: ")
    found = capfdbinary.readouterr()
    assert found.out == b"x: one\nx: two\n"
    assert found.err == b"x: err\nx: last\n"


def test_output_of_one_is_as_it_comes(capfdbinary):
    show(iter([(b"\rhalf", None), b"\rall"]), "")
    assert capfdbinary.readouterr().out == b"\rhalf\rall"
