"""Parts under the virtio-fs device: threads for slow requests, the log, descriptors."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.testing.fs_frontend import FakeServer, message, until
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import Loop
from guestforge.vhost.core.scattered import scatter
from guestforge.vhost.fs.fuse.abi import operation_of
from guestforge.vhost.fs.fuse.protocol import IN_HEADER_SIZE
from guestforge.vhost.fs.workers import Workers

REPOSITORY = Path(__file__).parents[2]


def test_every_call_that_blocks_has_a_thread_of_its_own():
    workers, held, began = Workers(8), threading.Event(), []
    for number in range(8):
        workers.submit(lambda number=number: (began.append(number), held.wait(10)))
    until(lambda: len(began) == 8)
    held.set()
    done = threading.Event()
    workers.submit(done.set)
    assert done.wait(10)
    assert workers._threads == 8  # an idle one took it


def test_calls_above_the_limit_wait_their_turn():
    workers, held, order = Workers(1), threading.Event(), []
    workers.submit(lambda: held.wait(10))
    for number in range(5):
        workers.submit(lambda number=number: order.append(number))
    assert order == []
    held.set()
    until(lambda: order == [0, 1, 2, 3, 4])


def test_dropped_calls_are_not_made():
    workers, held, made = Workers(1), threading.Event(), []
    began = threading.Event()
    workers.submit(lambda: (began.set(), held.wait(10)))
    assert began.wait(10)
    workers.submit(lambda: made.append("dropped"))
    workers.drop()
    held.set()
    workers.submit(lambda: made.append("kept"))
    until(lambda: made == ["kept"])


def test_a_thread_that_comes_late_wakes_nobody():
    loop = Loop()
    write = loop._wake_write
    loop.close()
    ours = os.memfd_create("somebody's file")
    os.dup2(ours, write)  # the number is given out again
    try:
        loop.wake()
        assert os.fstat(write).st_size == 0
    finally:
        os.close(ours)
        os.close(write)


def test_a_woken_loop_ends_its_sleep():
    loop, batches = Loop(), []
    loop.after_batch = lambda: batches.append(1)
    timer = threading.Timer(0.05, loop.wake)
    timer.start()
    loop.step(10)
    assert batches == [1]
    timer.join()
    loop.close()


def test_what_a_guest_puts_into_a_line_of_the_log_is_harmless(capsys):
    Log("name").say("file \x1b[31m\n\u2028 with ümlaut")
    Log("name").say("plain ümlaut")
    assert capsys.readouterr().err == "name: file \\x1b[31m\\n\\u2028 with \\xfcmlaut\nname: plain ümlaut\n"


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_a_header_is_split_off_whatever_the_pieces(pieces):
    whole = b"".join(pieces)
    request = [memoryview(bytearray(piece)) for piece in pieces]
    if len(whole) < IN_HEADER_SIZE:
        with pytest.raises(ValueError, match="too short"):
            FakeServer().accept(request)
        return
    FakeServer().accept(request)
    assert b"".join(request) == whole
    assert request[0].readonly  # the guest can't reach it
    assert bytes(request[0]) == whole[:IN_HEADER_SIZE]


@given(st.integers(0, 0xFFFF), st.sampled_from("<>"))
def test_an_operation_is_read_in_either_byte_order(opcode, order):
    read = operation_of(message(opcode, order=order))
    assert read == opcode or (order == ">" and opcode & 0xFF == 0)  # no such number is an operation's


@given(st.lists(st.integers(0, 30), max_size=6), st.binary(max_size=100))
def test_a_reply_fills_pieces_in_order(sizes, data):
    pieces = [memoryview(bytearray(size)) for size in sizes]
    written = scatter(pieces, data)
    assert written == min(len(data), sum(sizes))
    assert b"".join(pieces)[:written] == data[:written]


@pytest.mark.parametrize(("soft", "hard", "wanted", "got"), [(64, 128, 100, 100), (64, 4096, 32, 64)])
def test_the_descriptor_limit_is_raised_and_never_lowered(soft, hard, wanted, got):
    limits = limits_after(soft, hard, wanted)
    assert limits[0] == got


def test_without_the_right_to_more_the_hard_limit_is_taken():
    drop = "import os; os.setgroups([]); os.setuid(65534);" if os.geteuid() == 0 else ""
    assert limits_after(64, 128, 1 << 20, drop) == (128, 128)


def limits_after(soft, hard, wanted, before=""):
    text = f"""
import sys, resource
sys.path.insert(0, {str(REPOSITORY)!r})
from guestforge.vhost.core.limits import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
{before}
raise_descriptor_limit({wanted})
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return tuple(int(word) for word in done.stdout.split())
