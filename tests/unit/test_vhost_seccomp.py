"""The filter of system calls: what it does to calls on no list, to deadly ones, and that both devices have it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestforge.core.errors import UserError
from guestforge.vhost.core import seccomp

REPOSITORY = Path(__file__).parents[2]

PROGRAM = """
import ctypes, os, socket, sys, threading
sys.path.insert(0, {repository!r})
from guestforge.vhost.core import seccomp
from guestforge.vhost.core.seccomp import *
seccomp.DEADLY -= {spared}  # what the tests do to set themselves up
calls = Filter({allowed}, {restricted})
libc = ctypes.CDLL(None, use_errno=True)
ctypes.CDLL("libgcc_s.so.1")
calls.load()
def attempt(call):
    try:
        return call() is not None or True
    except OSError as error:
        return error.strerror
{call}
"""
DEADLY = {
    "a program": "os.execv('/bin/true', ['true'])",
    "ptrace": "libc.ptrace(0, 0, 0, 0)",
    "mount": "libc.mount(b'a', b'/', b'tmpfs', 0, None)",
    "unshare": "libc.unshare(0x10000000)",
    "setns": "libc.setns(0, 0)",
    "chroot": "os.chroot('/')",
    "a file by its handle": "libc.open_by_handle_at(-100, None, 0)",
    "another process's memory": "libc.process_vm_readv(1, None, 0, None, 0, 0)",
}
REFUSED = {
    "a process": "os.fork()",
    "a signal": "os.kill(os.getppid(), 0)",
    "a network socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "another ioctl": "__import__('fcntl').ioctl(0, 0x5412, b'a')",
    "other rights": "os.setuid(0)",
}


def run(
    call: str, allowed: str = "SOCKETS", restricted: str = "UNIX_SOCKETS", spared: str = "set()"
) -> "subprocess.CompletedProcess[str]":
    text = PROGRAM.format(repository=str(REPOSITORY), allowed=allowed, restricted=restricted, call=call, spared=spared)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("lists", [("SOCKETS", "UNIX_SOCKETS"), ("FILES", "NO_SOCKETS")], ids=["vsock", "fs"])
@pytest.mark.parametrize("call", DEADLY.values(), ids=DEADLY)
def test_a_call_that_no_mistake_leads_to_ends_the_process(call: str, lists: tuple[str, str]) -> None:
    done = run(call, *lists)
    assert done.returncode == -signal.SIGSYS, done.stderr


@pytest.mark.parametrize("lists", [("SOCKETS", "UNIX_SOCKETS"), ("FILES", "NO_SOCKETS")], ids=["vsock", "fs"])
@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_a_call_that_is_on_no_list_is_refused(call: str, lists: tuple[str, str]) -> None:
    done = run(f"print(attempt(lambda: {call}))", *lists)
    assert done.stdout == "Operation not permitted\n", done.stderr


def test_a_file_is_opened_by_the_file_server_only() -> None:
    opens = "print(attempt(lambda: os.open('/', os.O_PATH)))"
    assert run(opens).stdout == "Operation not permitted\n"
    assert run(opens, "FILES", "NO_SOCKETS").stdout == "True\n"


def test_threads_memory_and_unix_sockets_are_there() -> None:
    done = run("""
kept = []
threads = [threading.Thread(target=lambda: kept.append(bytearray(8 << 20))) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
socket.socket(socket.AF_UNIX).close()
os.urandom(8)
print(len(kept))
""")
    assert done.stdout == "16\n", done.stderr


# What the tests themselves and pytest do besides: by paths, with processes of their own.
TESTS_OWN = """
    mkdir rename rmdir unlink symlink chmod chown chdir getcwd truncate link mknod utime futimesat lchown
    bind listen connect socketpair socket pipe pipe2 epoll_create1 eventfd2 memfd_create dup2 dup3 uname sysinfo
    prlimit64 getrlimit setrlimit setitimer statfs getgroups kill tgkill getppid getrusage
"""


@pytest.mark.slow
def test_the_file_server_works_with_it() -> None:
    """All that the file server's own tests try, with the filter on: so the list has what its operations need."""
    tests = ["-q", "-p", "no:cacheprovider", str(Path(__file__).parent / "test_fuse.py")]
    done = run(
        f"import pytest\nsys.exit(pytest.main({tests!r}))",
        f"FILES | set({TESTS_OWN!r}.split())",
        "{}",
        "{'open_tree'}",  # a share is opened for each test
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_host_without_the_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "LIBRARY", "libnowhere.so.9")
    with pytest.raises(UserError, match=r"there is no libnowhere\.so\.9"):
        seccomp.Filter(seccomp.FILES, seccomp.NO_SOCKETS)


@contextlib.contextmanager
def device(kind: str, directory: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a device program and wait until it has answered a visitor: then it serves."""
    path = directory / "front.sock"
    (directory / "share").mkdir(exist_ok=True)
    arguments = {
        "fs": [f"--shared-dir={directory / 'share'}", "--guest-arch=x86_64"],
        "vsock": [f"--uds-path={directory / 'v.sock'}", "--guest-cid=7"],
    }[kind]
    with subprocess.Popen(
        [sys.executable, "-m", f"guestforge.vhost.{kind}", f"--socket={path}", *arguments, *more],
        cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            end = time.monotonic() + 30
            with socket.socket(socket.AF_UNIX) as front:
                while front.connect_ex(str(path)) and process.poll() is None:
                    assert time.monotonic() < end
                    time.sleep(0.01)
                front.settimeout(30)
                front.sendall(bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))  # GET_FEATURES
                assert len(front.recv(20)) == 20
                yield process
        finally:
            process.kill()


@pytest.mark.parametrize("sandbox", ["namespace", "none"])
@pytest.mark.parametrize("kind", ["fs", "vsock"])
def test_a_device_that_serves_has_given_up_what_it_had(kind: str, sandbox: str, tmp_path: Path) -> None:
    with device(kind, tmp_path, f"--sandbox={sandbox}") as process:
        place = Path(f"/proc/{process.pid}")
        status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines())
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        if kind == "vsock":
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        if os.geteuid() == 0:
            assert (place / "status").stat().st_uid == 0  # also where it is not dumpable
            for name in ("net", "ipc", "mnt"):
                same = (place / "ns" / name).readlink() == Path(f"/proc/self/ns/{name}").readlink()
                assert same == (sandbox == "none")
            root = {"fs": [], "vsock": ["front.sock", "share", "v.sock"]}[kind]
            if sandbox == "namespace":
                assert sorted(path.name for path in (place / "root").iterdir()) == root
        process.terminate()
        assert process.wait(30) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["share"]
