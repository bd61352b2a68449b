"""ttRPC frames: what goes in comes out, however it is cut; what is no frame ends in our own error."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.agent.errors import ProtocolError
from guestforge.agent.frames import MAX_DATA, Frame, FrameParser, encode_frame

U32 = st.integers(0, 2**32 - 1)
U8 = st.integers(0, 255)
FRAMES = st.builds(Frame, stream=U32, kind=U8, data=st.binary(max_size=300), flags=U8)


def parse(pieces: list[bytes]) -> list[Frame]:
    parser = FrameParser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


def test_bytes_of_a_request_are_as_the_protocol_says() -> None:
    assert encode_frame(Frame(5, 1, b"abc")) == bytes.fromhex("00000003 00000005 01 00") + b"abc"


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 1600), max_size=8))
def test_frames_survive_any_cutting(frames: list[Frame], cuts: list[int]) -> None:
    wire = b"".join(encode_frame(frame) for frame in frames)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    assert parse([wire[a:b] for a, b in itertools.pairwise(edges)]) == frames


@given(FRAMES, st.data())
def test_a_frame_is_only_given_out_whole(frame: Frame, data: st.DataObject) -> None:
    wire = encode_frame(frame)
    parser = FrameParser()
    assert list(parser.feed(wire[: data.draw(st.integers(0, len(wire) - 1))])) == []


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_random_bytes_give_frames_or_our_error(pieces: list[bytes]) -> None:
    try:
        frames = parse(pieces)
    except ProtocolError:
        return
    assert b"".join(pieces).startswith(b"".join(encode_frame(frame) for frame in frames))


@given(st.lists(FRAMES, min_size=1, max_size=3), st.integers(0, 2000), U8)
def test_mutated_frames_give_frames_or_our_error(frames: list[Frame], place: int, value: int) -> None:
    wire = bytearray(b"".join(encode_frame(frame) for frame in frames))
    wire[place % len(wire)] = value
    with contextlib.suppress(ProtocolError):
        assert sum(10 + len(frame.data) for frame in parse([bytes(wire)])) <= len(wire)


def test_the_largest_frame_passes_and_a_larger_one_does_not() -> None:
    largest = Frame(1, 2, bytes(MAX_DATA))
    assert parse([encode_frame(largest)]) == [largest]
    with pytest.raises(ProtocolError, match="4194305 bytes"):
        encode_frame(Frame(1, 2, bytes(MAX_DATA + 1)))


def test_a_header_that_announces_too_much_is_refused_before_its_data_comes() -> None:
    parser = FrameParser()
    assert list(parser.feed(bytes.fromhex("00400001 00000001 02"))) == []
    with pytest.raises(ProtocolError, match="4194305 bytes"):
        list(parser.feed(b"\0"))


def test_frames_before_a_malformed_one_are_given_out() -> None:
    good = Frame(1, 2, b"x")
    stream = FrameParser().feed(encode_frame(good) + b"\xff" * 10)
    assert next(stream) == good
    with pytest.raises(ProtocolError):
        next(stream)
