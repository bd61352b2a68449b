"""The pipes of a console: what they hold while nobody reads, and that their end is seen."""

import os
import select

import pytest

from guestforge.vmm.pipes import SIZE, console_pipes


def test_a_console_that_is_written_by_the_character_is_held_while_nobody_reads(tmp_path):
    with console_pipes(tmp_path / "console") as pipes:
        writer = os.open(tmp_path / "console.out", os.O_RDWR | os.O_NONBLOCK)  # as QEMU does
        for _ in range(60_000):  # a socket took 278, and what a pipe holds at least is 64 KiB
            assert os.write(writer, b"x") == 1
        os.close(writer)
        held = b""
        while data := os.read(pipes.output, SIZE):
            held += data
    assert held == b"x" * 60_000


def test_its_end_comes_when_the_writer_is_gone_and_not_before_it_was_there(tmp_path):
    with console_pipes(tmp_path / "console") as pipes:
        waiting = select.poll()
        waiting.register(pipes.output, select.POLLIN)
        assert waiting.poll(50) == []
        writer = os.open(tmp_path / "console.out", os.O_RDWR)
        assert waiting.poll(50) == []
        os.close(writer)
        assert waiting.poll(1000)
        assert os.read(pipes.output, 1) == b""


def test_what_is_typed_waits_for_qemu(tmp_path):
    with console_pipes(tmp_path / "console") as pipes:
        os.write(pipes.input, b"early")
        reader = os.open(tmp_path / "console.in", os.O_RDONLY | os.O_NONBLOCK)
        assert os.read(reader, 10) == b"early"
        with pytest.raises(BlockingIOError):
            os.read(reader, 10)
        os.close(reader)
    for end in (pipes.input, pipes.output):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)
