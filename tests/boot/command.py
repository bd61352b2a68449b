"""`invoke` as a user runs it: a process of its own, on directories of the test's."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
INVOKE = (str(Path(sys.executable).with_name("invoke")),)
MINIATURE = (sys.executable, str(Path(__file__).with_name("miniature.py")))
LIMIT = 120.0  # seconds


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and all that it printed, standard error and output in one."""

    code: int
    text: str

    @property
    def boots(self):
        """The lines that tell of boots."""
        return [line[line.index("boot: ") :] for line in self.text.splitlines() if "boot: " in line]

    def assert_told(self, code, *words):
        """It ended with this code, these words in what it printed, and no traceback."""
        assert "Traceback" not in self.text, self.text
        assert self.code == code, self.text
        assert [word for word in words if word not in self.text] == [], self.text


class Running:
    """A command that runs; what it prints is read as it comes."""

    def __init__(self, program, *words, **environment):
        self._process = subprocess.Popen(
            [*program, *words],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                **{name: str(value) for name, value in environment.items()},
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._lines = []
        self.limit = LIMIT
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self):
        return "".join(self._lines)

    @property
    def pid(self):
        return self._process.pid

    @property
    def runs(self):
        return self._process.poll() is None

    def wait_line(self, pattern):
        """Wait until a line matches."""
        deadline = time.monotonic() + LIMIT
        with self._news:
            while not re.search(pattern, self.text):
                assert self._process.poll() is None, f"ended without {pattern!r}: {self.text}"
                assert time.monotonic() < deadline, f"no {pattern!r} in {self.text}"
                self._news.wait(0.05)

    def signal(self, number):
        """Send a signal to the command alone; what it started is in process groups of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def end(self):
        """Wait for its end."""
        try:
            code = self._process.wait(self.limit)
        finally:
            self.signal(signal.SIGKILL)
        self._reader.join(10)
        return Ended(code, self.text)

    def _read(self):
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()


def invoke(*words, **environment):
    """Run `invoke` to its end."""
    return Running(INVOKE, *words, **environment).end()


def on_small_disk(program, place, size, *words, **environment):
    """Run a command with a small file system mounted at `place`, in a mount namespace of its own."""
    script = 'mount -t tmpfs -o "size=$2,mode=700" none "$1" && shift 2 && exec "$@"'
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(place), size)
    return Running((*prefix, *program), *words, **{"GUESTFORGE_INSTALL": "never", **environment}).end()
