"""What reaches a person's terminal of what a guest prints."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.vmm.escapes import MAX_STRING, RESET, Parser, TerminalFilter, passed

# all that may come out, told apart without the parser
LISTED = re.compile(
    r"\x1b[78DEM]|\x1b\[(?:\d{1,4})?(?:[;:]\d{0,4})*[@ABCDEFGHLMPSTXdfm]|\x1b\[[0-2]?[JK]|\x1b\[\?(?:7|25)[hl]|[\a\b\t\n\r]"
)
# pieces of what acts on terminals, more likely together than letters drawn alone would make them
FRAGMENTS = (
    *"\x1b[]P_^X\\\a\x05\x0e\x18\x1a\x7f\x9b\x9d\x9c?>;:0123456789$!#(%cmnhlqtuRZ \n",
    "\x1b[", "\x1b]", "\x1b\\", "\x1bP", "\x1b[6n", "\x1b[31m", "\x1b]0;pwned\a", "a\u202eb", "\u00e9\u6f22",
)  # fmt: skip
consoles = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3)).map("".join)


def shown(data):
    return TerminalFilter().feed(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data).decode()


@given(consoles)
def test_nothing_comes_out_that_is_not_listed(text):
    left = LISTED.sub("", shown(text))
    assert left.isprintable()


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_cut_anywhere_give_the_same(data, cuts):
    assert_same(data, cuts)


@given(consoles, st.lists(st.integers(0, 300), max_size=5))
def test_any_sequences_cut_anywhere_give_the_same(text, cuts):
    assert_same(text.encode("utf-8", "surrogatepass"), cuts)


def assert_same(data, cuts):
    places = [0, *sorted(cuts), len(data)]
    cut = TerminalFilter()
    pieces = b"".join(cut.feed(data[start:end]) for start, end in itertools.pairwise(places))
    # the filter holds the beginning of a character back until it is whole
    assert pieces == TerminalFilter().feed(data)


@pytest.mark.parametrize(
    "text",
    [
        "plain\r\n\ttext\b",
        "\x1b[31mred\x1b[0m \x1b[38;2;1;2;3mblue\x1b[m \x1b[38:5:1m",
        "\x1b[2J\x1b[H\x1b[10;20Hthere\x1b[K\x1b[1A\x1b[5D\x1b[3P",
        "\x1b7\x1b8\x1bM\x1b[?25l\x1b[?25h",
        "h\u00e4\u6f22\U0001f980",
        RESET.decode(),
    ],
)
def test_what_a_shell_needs_passes(text):
    assert shown(text) == text


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b]0;pwned\a", "\x1b]52;c;cm0gLXJm\x1b\\", "\x1b]8;;http://x\x1b\\", "\x1b]4;1;?\x9c",
        "\x1bP$qm\x1b\\", "\x1bP+q544e\x1b\\", "\x1b_Ga=q;AAAA\x1b\\", "\x1b^pm\x1b\\", "\x1bXsos\x1b\\",
        "\x05", "\x1bZ", "\x1b[c", "\x1b[0c", "\x1b[>c", "\x1b[=c", "\x1b[5n", "\x1b[6n", "\x1b[?6n", "\x1b[x",
        "\x1b[21t", "\x1b[18t", "\x1b[>q", "\x1b[?u", "\x1b[?2026$p", "\x1b[1;1;1;1;1;1*y",
        "\x1b[4i", "\x1b[5i", "\x1b[?1000h", "\x1b[?2004h", "\x1b[?1049h", "\x1b[20h", "\x1b[!p", "\x1b[3J", "\x1bc",
        "\x1b(0", "\x1b#8", "\x1b%G", "\x1b>", "\x1b=", "\x0e", "\x0f", "\x1b[99999b", "\x1b[10000000X", "\x1b[>4;2m",
    ],
)  # fmt: skip
def test_what_acts_or_is_answered_does_not(sequence):
    assert shown(f"a{sequence}b") == "ab"


@pytest.mark.parametrize("data", [b"\xc2\x9b6n", b"\x9b6n", b"\xc2\x9d0;x\x07", b"\x9d0;x\x07"])
def test_controls_of_eight_bits_are_none(data):
    assert not re.search("[\x1b\x80-\x9f]", shown(data))


def test_a_string_without_end_does_not_silence_the_console():
    assert shown("\x1b]0;" + "x" * MAX_STRING + "\r\nlogin: ").endswith("\r\nlogin: ")


def test_what_has_begun_is_bounded():
    parser, _ = passed(Parser(), "\x1b[" + "1;" * 1_000_000)
    assert len(parser.begun) < 100
