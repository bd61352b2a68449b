"""What a guest says of the conform cases, and how storages are held against each other."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.agent.container import Result as Ran
from guestforge.arch import ARCHES
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.engine import CheckFailure, RunEnded
from guestforge.conform import run as module
from guestforge.conform.results import NAME_LIMIT, Result, parse_results
from guestforge.conform.table import Conformance, table
from guestforge.core.errors import CheckError
from guestforge.core.runtime import HOST
from guestforge.project.options import CheckOptions
from guestforge.vmm.accel import Accelerator


def said(*results, done=None):
    lines = [*results, {"done": len(results) if done is None else done}]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


PASSED = {"name": "a", "status": "pass", "ms": 1}
FAILED = {"name": "b", "status": "fail", "detail": "x\x1b[2J\ny", "ms": 1}


def test_results_are_taken_by_name_and_made_printable():
    results = parse_results(said(PASSED, FAILED))
    assert results == {"a": Result("pass"), "b": Result("fail", "x [2J y")}


@pytest.mark.parametrize(
    "output",
    [
        b"",
        said(PASSED)[: len(said(PASSED)) // 2],
        b"{}\n",
        b"\n" * 3,
        said(),
        said(PASSED, PASSED),
        said(PASSED, done=2),
        said({**PASSED, "status": "passed"}),
        said({**PASSED, "name": ""}),
        said({**PASSED, "name": "x" * (NAME_LIMIT + 1)}),
        said({**PASSED, "detail": 5}),
        b"[" * 100_000 + b"\n" + said(PASSED),
        b"[]\n" + said(PASSED),
        json.dumps(PASSED).encode() + b"\n",
    ],
)
def test_a_program_that_broke_off_or_lies_has_no_results(output):
    with pytest.raises(CheckFailure):
        parse_results(output)


@given(st.binary(max_size=300))
def test_any_output_is_results_or_a_failure(output):
    with contextlib.suppress(CheckFailure):
        parse_results(output)


def conformance(**results):
    storages = {name.replace("_", "-"): value for name, value in results.items()}
    return Conformance("s390x", "minimal", "tcg", dict.fromkeys(storages, "somebody"), storages)


FOUND = conformance(
    virtio_blk={"a": Result("pass"), "b": Result("unsupported"), "c": Result("pass")},
    virtio_fs={"a": Result("pass"), "b": Result("unsupported")},
    virtio_9p={"a": Result("fail", "wrong"), "b": Result("pass"), "c": Result("pass")},
)


def test_differences_are_those_from_the_reference():
    assert FOUND.differences("virtio-blk") == {}
    assert list(FOUND.differences("virtio-fs")) == ["c"]  # a case that was not run is no success
    assert list(FOUND.differences("virtio-9p")) == ["a", "b"]


def test_the_table_has_what_is_not_kept_everywhere():
    text = table(FOUND)
    assert "s390x virtio-9p (somebody): 3 cases: 2 pass, 1 fail, 0 unsupported" in text
    assert [line.split() for line in text.splitlines() if line.startswith(("a ", "b ", "c "))] == [
        ["a", "pass", "pass", "FAIL"],
        ["b", "-", "-", "pass"],
        ["c", "pass", "FAIL", "pass"],
    ]
    assert "virtio-9p: a: wrong" in text


def test_nothing_but_counts_where_all_is_kept():
    assert table(conformance(virtio_blk={"a": Result("pass")})).count("\n") == 0


class Guest:
    accelerator = Accelerator("tcg", "a double")
    virtio_fs_server = "double"

    def __init__(self, serving=True, ran=None, error=None):
        self.serving, self.ran, self.error = serving, ran or Ran(0, said(PASSED), b""), error

    def wait_serving(self, _):
        return self.serving

    def create_sandbox(self):
        if self.error:
            raise self.error

    def run_program(self, *_):
        return self.ran

    def power_off(self, _):
        return "off"

    def console_tail(self, _):
        return "the console"


@pytest.fixture
def conform(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    artifacts = GuestArtifacts(ARCHES["x86_64"], "minimal", file, "6", file, file, file)

    def run(**faults):
        return module.conform(
            lambda _: contextlib.nullcontext(Guest(**faults)), artifacts, file, CheckOptions(), HOST, many=1000
        )

    return run


def test_every_storage_is_tried(conform):
    found = conform()
    assert list(found.results) == ["virtio-blk", "virtio-fs", "virtio-9p"]
    assert found.servers["virtio-fs"] == "double"
    assert json.loads(json.dumps(found.to_json()))["results"]["virtio-fs"]["a"]["status"] == "pass"


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"serving": False}, "did not say SERVING"),
        ({"ran": Ran(2, b"", b"no such")}, "exit code 2"),
        ({"ran": Ran(0, b"{}", b"")}, "did not come to its end"),
        ({"error": RunEnded("panic", "panicked")}, "panicked"),
    ],
)
def test_a_guest_that_does_not_come_so_far_is_a_failed_check(conform, faults, words):
    with pytest.raises(CheckError, match=words):
        conform(**faults)
