import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.check.engine import CheckFailure
from guestforge.check.probe import OUTPUT_LIMIT, parse_answer


def test_answer_is_the_json_object():
    assert parse_answer("stat /", 0, b'{"mode": 493}\n', b"") == {"mode": 493}


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "message"),
    [
        (1, b"{}", b"open /x: no such file", "ended with exit code 1"),
        (0, b"", b"", "printed no JSON"),
        (0, b"[1]", b"", "no JSON object"),
        (0, b"{" * 100_000, b"", "printed no JSON"),
        (0, b"[" * 100_000, b"", "printed no JSON"),
        (0, b'{"a": ' + b"9" * 10_000 + b"}", b"", "printed no JSON"),
        (0, b"\xff\xfe\x00", b"", "printed no JSON"),
        (0, b"x" * (OUTPUT_LIMIT + 1), b"", "more than"),
    ],
)
def test_bad_answer_is_a_failed_check(code, stdout, stderr, message):
    with pytest.raises(CheckFailure, match=message):
        parse_answer("stat /", code, stdout, stderr)


def test_failed_probe_shows_what_it_said():
    with pytest.raises(CheckFailure) as e:
        parse_answer("read /x", 1, b"", b"open /x: no such file\n")
    assert e.value.excerpt == "open /x: no such file"


@given(st.binary(max_size=200))
def test_whatever_is_printed_is_an_answer_or_a_failure(stdout):
    try:
        assert isinstance(parse_answer("x", 0, stdout, b""), dict)
    except CheckFailure as e:
        assert e.summary
