import pytest

from guestforge.check.engine import Check, CheckFailure, Run, RunEnded

BLAME = {"server-died": "storage"}


def says(text):
    return lambda _: text


def fails(error):
    def check(_):
        raise error

    return check


def outcome(*checks, settle=True):
    run = Run(checks, None, BLAME)
    run.on_guest()
    if settle:
        run.on_remains()
    return {result.name: (result.status, result.detail) for result in run.results}


def test_evidence_makes_a_pass():
    assert outcome(Check("a", says("seen"))) == {"a": ("pass", "seen")}


def test_failure_shows_summary_and_excerpt():
    assert outcome(Check("a", fails(CheckFailure("wrong", "line 1\nline 2")))) == {
        "a": ("fail", "wrong\nline 1\nline 2")
    }


def test_check_is_skipped_when_what_it_needs_failed_and_others_go_on():
    result = outcome(
        Check("a", fails(CheckFailure("wrong"))), Check("b", says("b"), needs=("a",)), Check("c", says("c"))
    )
    assert result == {"a": ("fail", "wrong"), "b": ("skip", "a did not pass"), "c": ("pass", "c")}


def test_skipped_check_does_not_satisfy_a_need():
    result = outcome(
        Check("a", fails(CheckFailure("wrong"))),
        Check("b", says("b"), needs=("a",)),
        Check("c", says("c"), needs=("b",)),
    )
    assert result["c"] == ("skip", "b did not pass")


def test_check_that_is_not_asked_of_a_guest_is_excused_whatever_it_needs():
    excused = Check("b", says("b"), needs=("a",), excuse=says("not of this one"))
    run = Run((Check("a", fails(CheckFailure("wrong"))), excused), None, BLAME)
    run.on_guest()
    assert [(result.status, result.detail, result.excused) for result in run.results] == [
        ("fail", "wrong", False),
        ("skip", "not of this one", True),
    ]


def test_end_of_the_run_excuses_nothing():
    excused = Check("b", says("b"), excuse=says("not of this one"))
    run = Run((Check("a", fails(RunEnded("panic", "the kernel panicked"))), excused), None, BLAME)
    run.on_guest()
    assert not run.results[1].excused


def test_second_part_adds_its_evidence():
    assert outcome(Check("a", says("read"), says("read back"))) == {"a": ("pass", "read; read back")}


def test_second_part_can_fail_what_the_first_passed():
    assert outcome(Check("a", says("read"), fails(CheckFailure("lost")))) == {"a": ("fail", "lost")}


def test_second_part_is_not_run_after_a_failed_first():
    assert outcome(Check("a", fails(CheckFailure("wrong")), fails(CheckFailure("again")))) == {"a": ("fail", "wrong")}


def test_check_whose_second_part_cannot_run_has_proven_nothing():
    result = outcome(
        Check("a", says("read"), says("back"), settle_needs=("off",)), Check("off", fails(CheckFailure("stays on")))
    )
    assert result["a"] == ("skip", "off did not pass")


def test_end_of_the_run_fails_the_check_that_ran_and_skips_the_rest():
    result = outcome(
        Check("a", says("a"), fails(CheckFailure("never"))),
        Check("b", fails(RunEnded("panic", "the kernel panicked", "line"))),
        Check("c", says("c")),
        Check("late", settle=says("late")),
    )
    assert result["b"] == ("fail", "the kernel panicked\nline")
    assert result["a"] == result["c"] == result["late"] == ("skip", "the run was ended by panic: the kernel panicked")


@pytest.mark.parametrize("order", [("storage", "other"), ("other", "storage")])
def test_end_of_the_run_is_laid_on_the_check_that_it_speaks_against(order):
    table = {"storage": Check("storage", says("ok")), "other": Check("other", fails(RunEnded("server-died", "died")))}
    result = outcome(*(table[name] for name in order))
    assert result["storage"] == ("fail", "died")
    assert result["other"] == ("skip", "the run was ended by server-died: died")


def test_end_outside_any_check_is_laid_on_the_next_one():
    run = Run((Check("a", says("a")), Check("b", says("b"))), None, BLAME)
    run.end(RunEnded("qemu-missing", "not installed"))
    run.on_guest()
    run.on_remains()
    assert [(result.name, result.status) for result in run.results] == [("a", "fail"), ("b", "skip")]


def test_server_is_named_whatever_becomes_of_the_check():
    checks = [
        Check("a", fails(RunEnded("panic", "p")), served_by=says("x")),
        Check("b", says("b"), served_by=says("y")),
    ]
    run = Run(checks, None, BLAME)
    run.on_guest()
    assert [result.served_by for result in run.results] == ["x", "y"]


def test_every_check_is_counted_once():
    seen = []
    run = Run((Check("a", says("1"), says("2")), Check("b", fails(CheckFailure("no")))), None, BLAME, seen.append)
    run.on_guest()
    run.on_remains()
    assert seen == ["a", "b"]
