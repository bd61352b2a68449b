"""Figures of storages: what a guest told, and what follows from it."""

import json

import pytest

from guestforge.arch import ARCHES, host
from guestforge.check.engine import CheckFailure
from tools.bench.figures import Aim
from tools.bench.storage import WORK, Measured, figures, parse, servers, together

TIMES = dict.fromkeys(WORK, 2.0)


def measured(server, share, memory=1000):
    seconds = {"virtio-blk": 1.0, "virtio-fs": share, "virtio-9p": 4.0}
    return Measured(server, {name: {work: [value] * 3 for work in WORK} for name, value in seconds.items()}, memory)


def test_what_the_program_told_is_taken():
    assert parse(json.dumps(TIMES).encode()) == TIMES


@pytest.mark.parametrize(
    "output",
    [b"", b"[]", b"{}", b"null", b'"x"', *(json.dumps(TIMES | {"random_read": wrong}).encode()
                                             for wrong in (0, -1, "x", None, 1e9, float("nan")))],
)  # fmt: skip
def test_anything_else_is_refused(output):
    with pytest.raises(CheckFailure):
        parse(output)


def test_speeds_are_shares_of_virtio_blk_and_ours_of_virtiofsd():
    found = {figure.name: figure for figure in figures([measured("virtiofsd", 2.0), measured("builtin", 3.0)])}
    assert found["virtio-fs by virtiofsd to virtio-blk: random read"].value == 0.5
    assert found["virtio-9p to virtio-blk: small files"].value == 0.25
    ours = found["ours to virtiofsd: sequential read"]
    assert ours.value == pytest.approx(2 / 3)
    assert not ours.aim.met(ours.value)
    assert found["ours to virtiofsd: small files"].aim.met(2 / 3)
    assert found["memory of our server"].value == 1000


def test_rounds_are_taken_together():
    one = together([measured("builtin", 1.0, 10), measured("builtin", 3.0, 30), measured("builtin", 2.0, 20)])
    assert one.seconds["virtio-fs"]["random_read"] == [1.0] * 3 + [3.0] * 3 + [2.0] * 3
    assert (one.server, one.memory) == ("builtin", 30)


def test_where_there_is_no_virtiofsd_for_a_guest_ours_is_measured_alone():
    names = [figure.name for figure in figures([measured("builtin", 3.0)])]
    assert not [name for name in names if "virtiofsd" in name]
    assert len(names) == 2 * len(WORK) + 1


def test_only_servers_that_can_serve_are_measured():
    assert servers(ARCHES["s390x"] if host().name != "s390x" else ARCHES["x86_64"]) == ("builtin",)


def test_an_aim_may_be_a_least_value():
    assert [Aim(0.7, least=True).met(value) for value in (0.69, 0.7, 0.8)] == [False, True, True]
