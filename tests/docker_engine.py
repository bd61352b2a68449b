"""Debian's dockerd on this machine, for as long as a block lasts: with files and a socket of its own, no network."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import docker

NOWHERE = "http://127.0.0.1:1"


@contextlib.contextmanager
def dockerd(directory, *options):
    """Start an engine that keeps its files below a directory; yield its process and its address.

    Sockets are elsewhere: the names that tests' directories have are longer than a socket's may be.
    """
    directory.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as short:
        try:
            with _daemon(directory, Path(short), options) as found:
                yield found
        finally:
            _end_what_is_left(short)
            for place in (directory / "data", Path(short)):
                _unmount_below(place)


def _end_what_is_left(short):
    """End what an engine that was killed leaves: its containerd, what watches over containers, and these."""
    doomed = {pid for pid in _processes() if short.encode() in _read(pid, "cmdline")}
    while more := {pid for pid in _processes() - doomed if _parent(pid) in doomed}:
        doomed |= more
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes():
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()}


def _read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _parent(pid):
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _unmount_below(place):
    """Unmount what an engine leaves mounted, above all one that was killed."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for each in reversed([each for each in mounted if f"{each}/".startswith(f"{place}/")]):
        subprocess.run(["umount", "--lazy", each], check=True)


@contextlib.contextmanager
def _daemon(directory, short, options):
    address = f"unix://{short}/docker.sock"
    places = {"data-root": directory / "data", "exec-root": short / "exec", "pidfile": short / "pid"}
    argv = [
        "dockerd", "-H", address, *(f"--{name}={place}" for name, place in places.items()),
        "--iptables=false", "--ip6tables=false", "--bridge=none", *options,
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        # it reaches no registry, wherever the tests run
        environment = {**os.environ, "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": ""}
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)
    try:
        _wait(address, process, directory / "log")
        yield process, address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(address, process, log):
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(docker.errors.DockerException):
            client = docker.DockerClient(base_url=address)
            client.ping()
            client.close()
            return
        time.sleep(0.1)
    raise AssertionError(f"dockerd did not start: {log.read_text(errors='replace')[-2000:]}")
