"""The screen that a console is shown on; with machines it is tested in tests/boot."""

import os
import subprocess
import sys
import time

PROGRAM = """
import sys
from guestforge.vmm.interactive import _Screen
with _Screen() as screen:
    for _ in range(2000):
        screen.show(b"x" * 4096)
    sys.stderr.write("shown")
    sys.stderr.flush()
    sys.stdin.read()
    screen.show(b"last")
"""


def test_a_terminal_that_stands_still_holds_nobody_up_and_is_told_what_it_missed():
    argv = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stderr.read(5) == b"shown"
        os.set_blocking(process.stdout.fileno(), False)
        told = b""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and len(told) < 256 * 4096:
            told += process.stdout.read(65536) or b""
        os.set_blocking(process.stdout.fileno(), True)
        told += process.communicate(b"")[0]
    assert told.endswith(b"the log has the rest]\r\nlast")
    assert len(told) < 2000 * 4096


def test_a_terminal_that_never_moves_again_does_not_keep_us():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=0, stdout=-1, stderr=-1) as process:
        assert process.stderr.read(5) == b"shown"
        assert process.wait(20) == 0
        process.stdout.close()
