"""The talk with the probe: whatever a guest says, it is the answer to the step that was asked, or a failure."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.agent.container import Result
from guestforge.check.engine import CheckFailure
from guestforge.check.probe import ProbeTalk, parse_answer

WELL = Result(0, b"", b"")


def talk(*lines, ended=WELL):
    """A probe that says these lines, one for each question, None where it is gone."""
    said = iter(lines)
    asked = []

    def ask(line):
        asked.append(json.loads(line))
        return next(said)

    probe = ProbeTalk(ask, lambda: ended)
    probe.asked = asked
    return probe


def test_each_step_is_a_numbered_line_and_its_answer_is_an_object():
    probe = talk(b'{"id":1,"ok":true,"mode":493}', b'{"ok":true,"id":2}')
    assert probe(["stat", "/"]) == {"id": 1, "ok": True, "mode": 493}
    probe(["unlink", "/x y"])
    probe.end()
    assert probe.asked == [{"id": 1, "args": ["stat", "/"]}, {"id": 2, "args": ["unlink", "/x y"]}]


@pytest.mark.parametrize("number", ["0", "2", "true", '"1"', "null", "1.5", "[1]"])
def test_an_answer_to_another_step_fails_the_one_that_it_came_for(number):
    with pytest.raises(CheckFailure, match="`probe stat /` was step 1, and what was answered is step"):
        talk(b'{"ok":true,"id":%s}' % number.encode())(["stat", "/"])


def test_an_answer_that_is_left_out_or_comes_twice_or_too_early_fails_a_step():
    first, second = b'{"ok":true,"id":1}', b'{"ok":true,"id":2}'
    probe = talk(first, first)
    probe(["a"])
    with pytest.raises(CheckFailure, match="`probe b` was step 2, and what was answered is step 1"):
        probe(["b"])
    with pytest.raises(CheckFailure, match="`probe a` was step 1, and what was answered is step 2"):
        talk(second, first)(["a"])


def test_more_than_was_asked_fails_the_end():
    with pytest.raises(CheckFailure, match="said more than its 0 answers") as caught:
        talk(ended=Result(0, b'{"id":1}\n', b"")).end()
    assert caught.value.excerpt == '{"id":1}'


def test_a_probe_that_dies_fails_the_step_that_it_was_in():
    probe = talk(b'{"ok":true,"id":1}', None, ended=Result(137, b"", b"out of memory\n"))
    probe(["a"])
    with pytest.raises(CheckFailure, match="`probe b /x` ended with exit code 137 in the guest") as caught:
        probe(["b", "/x"])
    assert caught.value.excerpt == "out of memory"


def test_a_probe_that_ends_badly_has_proven_nothing():
    with pytest.raises(CheckFailure, match="ended with exit code 2"):
        talk(ended=Result(2, b"", b"panic")).end()


@pytest.mark.parametrize("ok", ["false", "1", '"true"', "null"])
def test_a_step_that_failed_shows_what_the_probe_said(ok):
    with pytest.raises(CheckFailure, match="`probe read /x` failed in the guest") as caught:
        talk(b'{"ok":%s,"id":1,"error":"no such\\u001b file"}' % ok.encode())(["read", "/x"])
    assert "no such" in caught.value.excerpt
    assert "\x1b" not in caught.value.excerpt


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "printed no JSON"),
        (b"[1]", "no JSON object"),
        (b"{" * 100_000, "printed no JSON"),
        (b"[" * 100_000, "printed no JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "printed no JSON"),
        (b"\xff\xfe\x00", "printed no JSON"),
    ],
)
def test_a_line_that_is_no_answer_is_a_failed_check(line, message):
    with pytest.raises(CheckFailure, match=message):
        parse_answer("stat /", line)


VALUES = st.dictionaries(st.sampled_from(["id", "ok", "error"]), st.integers() | st.text() | st.booleans())


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_said_is_the_answer_or_a_failure(line):
    try:
        answer = talk(line)(["x"])
    except CheckFailure as e:
        assert e.message
    else:
        assert (answer["id"], answer["ok"]) == (1, True)
