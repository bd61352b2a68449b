"""The debug shell's two directions."""

import os
import socket
import threading

import pytest

from guestforge.vmm import shell


@pytest.fixture
def ends():
    """The guest's end of a connection, ours, a pipe for keys and one for the screen."""
    guest, ours = socket.socketpair()
    keys, screen = os.pipe(), os.pipe()
    guest.settimeout(5)
    yield guest, ours, keys, screen
    guest.close()
    ours.close()
    for descriptor in (keys[0], *screen):
        os.close(descriptor)


def talk(ours, keys, screen):
    thread = threading.Thread(target=shell.converse, args=(ours, keys[0], screen[1]), daemon=True)
    thread.start()
    return thread


def test_keys_reach_the_guest_and_its_words_the_screen(ends):
    guest, ours, keys, screen = ends
    thread = talk(ours, keys, screen)
    os.write(keys[1], b"ls\r\x03")
    assert guest.recv(10) == b"ls\r\x03"
    guest.sendall(b"files")
    assert os.read(screen[0], 10) == b"files"
    guest.close()
    thread.join(5)
    assert not thread.is_alive()
    os.close(keys[1])


def test_ctrl_bracket_leaves_and_what_was_typed_before_it_arrives(ends):
    guest, ours, keys, screen = ends
    thread = talk(ours, keys, screen)
    os.write(keys[1], b"sync\r\x1dnever")
    assert guest.recv(10) == b"sync\r"
    thread.join(5)
    assert not thread.is_alive()
    os.close(keys[1])


def test_end_of_a_pipe_still_waits_for_the_answer(ends):
    guest, ours, keys, screen = ends
    thread = talk(ours, keys, screen)
    os.write(keys[1], b"id\n")
    os.close(keys[1])
    assert guest.recv(10) == b"id\n"
    assert guest.recv(10) == b""
    guest.sendall(b"uid=0")
    guest.close()
    thread.join(5)
    assert os.read(screen[0], 10) == b"uid=0"


def test_shell_that_is_not_there_is_an_error_without_a_traceback(tmp_path, capsys):
    assert shell.main([str(tmp_path / "none")]) == 3
    assert "no connection to port 1026" in capsys.readouterr().err
