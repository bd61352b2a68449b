"""The agent's metrics: what a guest sends is read, or refused, in no time."""

import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guestforge.agent.errors import ProtocolError
from guestforge.agent.metrics import MAX_SAMPLES, GuestMemory, Sample, guest_memory, parse_metrics

TEXT = """\
# HELP kata_guest_meminfo Statistics about memory usage on the system.
# TYPE kata_guest_meminfo gauge
kata_guest_meminfo{item="active"} 1234
kata_guest_meminfo{item="mem_available"} 234881024
kata_guest_meminfo{item="mem_total"} 256901120

kata_agent_scrape_count 1 1700000000000
"""


def test_samples_have_name_labels_and_value() -> None:
    samples = parse_metrics(TEXT)
    assert samples[0] == Sample("kata_guest_meminfo", {"item": "active"}, 1234.0)
    assert samples[-1] == Sample("kata_agent_scrape_count", {}, 1.0)


def test_memory_is_total_and_available() -> None:
    memory = guest_memory(parse_metrics(TEXT))
    assert memory == GuestMemory(250880, 229376)
    assert memory.used_kib == 21504


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ('m{a="x",b="y"} 1', {"a": "x", "b": "y"}, 1.0),
        ('m{a="x",} 1.5e3', {"a": "x"}, 1500.0),
        ('m { a = "} \\" \\\\ \\n" } -2', {"a": '} " \\ \n'}, -2.0),
        ("m{} +Inf", {}, math.inf),
        ("  m   .5  ", {}, 0.5),
        ('m{a="é"}3', {"a": "é"}, 3.0),
    ],
)
def test_what_the_format_allows_is_read(line: str, labels: dict[str, str], value: float) -> None:
    assert parse_metrics(line) == [Sample("m", labels, value)]


@pytest.mark.parametrize(
    "line",
    ["m", "m x", "m 1 2 3", "1m 1", 'm{a="x} 1', "m{a=x} 1", 'm{a="x"b="y"} 1', "m 1_000", "m 0x10", "m{ 1", "m inf"],
)
def test_what_is_no_sample_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ProtocolError, match="line 2 of the guest's metrics is no sample"):
        parse_metrics(f"ok 1\n{line}")


def test_free_pages_in_the_processors_lists_are_not_used() -> None:
    before = guest_memory(parse_metrics(TEXT)).used_kib
    assert guest_memory(parse_metrics(f"{TEXT}\nguestforge_guest_percpu_free 2048\n")).used_kib == before - 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kata_guest_meminfo 5",
        *(TEXT.replace("256901120", total) for total in ("1", "NaN", "Inf")),
        TEXT.replace(" 234", " -2"),
        f"{TEXT}\nguestforge_guest_percpu_free 999999999999",
        f"{TEXT}\nguestforge_guest_percpu_free NaN",
    ],
)
def test_memory_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="no sensible"):
        guest_memory(parse_metrics(text))


def test_too_many_or_too_long_lines_are_refused() -> None:
    assert len(parse_metrics("m 1\n" * MAX_SAMPLES)) == MAX_SAMPLES
    with pytest.raises(ProtocolError, match="too long"):
        parse_metrics("m 1\n" * (MAX_SAMPLES + 1))
    with pytest.raises(ProtocolError, match="too long: line 1"):
        parse_metrics("m" * 4000 + " " * 100 + "1")


SLOW = {
    "name or value": "a" + "1" * 4000 + "x",
    "value": "a 1" + "1" * 3900 + "x",
    "spaces": "a " + " " * 4000 + "x",
    "escapes": 'a{b="' + "\\\\" * 1900,
    "empty labels": "a{" + '""' * 1900,
    "label names": "a{" + "b=" * 1900 + "} 1",
}


@pytest.mark.alone
@pytest.mark.parametrize("line", SLOW.values(), ids=SLOW)
def test_lines_made_to_be_slow_are_not(line: str) -> None:
    start = time.monotonic()
    with pytest.raises(ProtocolError):
        parse_metrics(line)
    assert time.monotonic() - start < 1.0  # backtracking takes minutes


@given(st.text(max_size=200) | st.text('m{}="\\, 1.eE+-\n#', max_size=60))
@example('m{a="\\')
def test_any_text_gives_samples_or_our_error(text: str) -> None:
    try:
        guest_memory(parse_metrics(text))
    except ProtocolError:
        return
