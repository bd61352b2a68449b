"""What a process in the sandbox can and can't do, as root and as a user: each case is a process of its own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guestforge.vhost.core import sandbox

REPOSITORY = Path(__file__).parents[2]
SERVE = ("--guest-arch", "x86_64", "--allow-exposed", "--shared-dir")  # and the directory
NOBODY = 65534

PROGRAM = """
import ctypes, json, os, sys
from pathlib import Path
sys.path.insert(0, {repository!r})
from guestforge.vhost.fs.fuse.syscalls import own_descriptors
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.sandbox import Sandbox
{before}
box = Sandbox(Path({directory!r}), Log("box"), {kind!r}, read_only={read_only})
box.prepare()
root = os.open({directory!r}, os.O_PATH)
fds = own_descriptors()
box.enter()
def attempt(call):
    try:
        return call()
    except (OSError, ImportError, LookupError) as error:
        return type(error).__name__
facts = {{}}
{after}
print(json.dumps(facts))
"""


# The interpreter and its library may be where only root can read them. A process that has changed its user is not
# dumpable, and its /proc files are root's, until it says otherwise; one that was started by the user is.
BECOME_NOBODY = f"""
"".encode("unicode_escape")
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""


def run(
    directory: Path, after: str, *, before: str = "", kind: str = "namespace", read_only: bool = False
) -> tuple[dict[str, Any], str]:
    """Run a program in the sandbox of a directory; return the facts that it found and its standard error."""
    text = PROGRAM.format(
        repository=str(REPOSITORY), directory=str(directory), before=before, after=after, kind=kind, read_only=read_only
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def share() -> Iterator[Path]:
    """A share that a user without any rights gets to as well."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        (Path(place) / "secret").write_text("not for guests")
        share = Path(place) / "share"
        share.mkdir()
        (share / "file").write_text("for guests")
        (share / "evil.py").write_text("raise SystemExit('a guest runs code')")
        yield share


def users() -> list[str]:
    """Ourselves, and where we may change to one, a user without any rights."""
    return ["", BECOME_NOBODY] if os.geteuid() == 0 else [""]


@pytest.mark.parametrize("user", users(), ids=lambda become: "nobody" if become else "we")
def test_nothing_but_the_share_has_a_name(share: Path, user: str) -> None:
    facts, error = run(
        share,
        f"""
facts["root"] = sorted(os.listdir("/"))
facts["path"] = attempt(lambda: os.stat({str(share.parent / "secret")!r}).st_size)
facts["up"] = sorted(os.listdir(os.open("..", os.O_RDONLY, dir_fd=root)))
facts["file"] = os.read(os.open("file", os.O_RDONLY, dir_fd=root), 99).decode()
through = os.open("file", os.O_PATH, dir_fd=root)
facts["through"] = os.read(os.open(str(through), os.O_RDONLY, dir_fd=fds), 99).decode()
facts["proc"] = os.path.exists("/proc")
""",
        before=user,
    )
    assert error == ""
    everything = ["evil.py", "file"]
    assert facts == {
        "root": everything, "path": "FileNotFoundError", "up": everything, "file": "for guests",
        "through": "for guests", "proc": False,
    }  # fmt: skip


def test_nothing_in_the_share_is_imported_or_loaded(share: Path) -> None:
    facts, _ = run(
        share,
        """
sys.path.append("/")
facts["import"] = attempt(lambda: __import__("evil"))
facts["late import"] = attempt(lambda: __import__("email.mime"))
facts["codec"] = "a\\n".encode("unicode_escape").decode()
ctypes.CDLL("libgcc_s.so.1")  # loaded before, or it would not be found
""",
    )
    assert facts == {"import": "ModuleNotFoundError", "late import": "ModuleNotFoundError", "codec": "a\\n"}


# Whatever `serve` has opened of the file system up to here, and what leads where.
PARSED = """
from guestforge.vhost.fs import __main__ as fs
options = fs._parser().parse_args(sys.argv[1:])
"""
DOORS = """
from guestforge.vhost.fs.device import FsDevice
def look(self, *_, **__):
    doors, held = {}, []
    for number in range(64):
        try:
            here, above = os.fstat(number), os.stat("..", dir_fd=number)
        except OSError:
            continue
        doors[number] = (here.st_dev, here.st_ino) == (above.st_dev, above.st_ino)
        try:
            held.append(os.open("../../../etc", os.O_PATH, dir_fd=number))
        except OSError:
            pass
    cwd = os.path.samestat(os.stat(".."), os.stat("."))
    print(json.dumps({"doors": list(doors.values()), "etc": held, "cwd": cwd}), flush=True)
    os._exit(0)
FsDevice.__init__ = look
sys.exit(fs.serve(options))
"""


@pytest.mark.parametrize("user", users(), ids=lambda become: "nobody" if become else "we")
def test_from_no_descriptor_of_the_device_a_way_leads_out(share: Path, user: str) -> None:
    (share.parent / "run").mkdir()
    (share.parent / "run").chmod(0o1777)
    before = f"import ctypes, json, os, sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
    arguments = ["--socket", str(share.parent / "run/s"), *SERVE, str(share)]
    done = subprocess.run(
        [sys.executable, "-c", before + PARSED + user + DOORS, *arguments],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.stdout, done.stderr
    # the shared directory, and where descriptors are opened anew
    assert json.loads(done.stdout) == {"doors": [True, True], "etc": [], "cwd": True}
    end = time.monotonic() + 10
    while (share.parent / "run/s").exists():  # whoever removes the socket does so however the device ends
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_open_directory_that_leads_out_is_refused(share: Path) -> None:
    directory = os.open(share.parent, os.O_RDONLY)
    arguments = ["--socket", str(share.parent / "s"), *SERVE, str(share)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "guestforge.vhost.fs", *arguments],
            capture_output=True, text=True, check=False, cwd=REPOSITORY, pass_fds=[directory], timeout=30,
        )  # fmt: skip
    finally:
        os.close(directory)
    assert done.returncode == 1
    assert f"no sandbox: descriptor {directory} is a directory outside of it" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
@pytest.mark.parametrize("below", ["", "below/"], ids=["the share", "a file system below it"])
def test_a_device_or_a_program_of_a_guest_is_none_for_this_process(share: Path, below: str) -> None:
    (share / "below").mkdir()
    facts, _ = run(
        share,
        f"""
os.mknod("/{below}null", 0o020666, os.makedev(1, 3))
facts["device"] = attempt(lambda: os.open("/{below}null", os.O_RDWR))
with open("/{below}program", "w") as file:
    file.write("#!/")
os.chmod("/{below}program", 0o6755)
facts["mode"] = oct(os.stat("/{below}program").st_mode)
facts["program"] = attempt(lambda: os.execv("/{below}program", ["x"]))
""",
        before=f"""
libc = ctypes.CDLL(None)
assert libc.unshare(0x20000) == 0 and libc.mount(None, b"/", None, 0x44000, None) == 0
assert libc.mount(b"none", {str(share / "below").encode()!r}, b"tmpfs", 0, None) == 0
""",
    )
    assert facts == {"device": "PermissionError", "mode": "0o106755", "program": "PermissionError"}


@pytest.mark.parametrize("user", users(), ids=lambda become: "nobody" if become else "we")
def test_a_share_that_is_read_only_is_so_for_the_whole_process(share: Path, user: str) -> None:
    share.chmod(0o777)
    facts, _ = run(
        share,
        """
def write():
    os.mkdir("/new")
try:
    write()
except OSError as error:
    facts["error"] = error.strerror
""",
        before=user,
        read_only=True,
    )
    assert facts == {"error": "Read-only file system"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_rights_are_those_that_a_file_server_needs(share: Path) -> None:
    facts, _ = run(
        share,
        """
os.chown("/file", 1234, 1234)
os.mknod("/null", 0o020666, os.makedev(1, 3))
facts["owner"] = os.stat("/file").st_uid
libc = ctypes.CDLL(None)
facts["mount"] = libc.mount(b"none", b"/", b"tmpfs", 0, None)
facts["chroot"] = attempt(lambda: os.chroot("/"))
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc.capget(header, sets)
facts["capabilities"] = list(sets)
facts["no_new_privs"] = libc.prctl(39, 0, 0, 0, 0)
facts["dumpable"] = libc.prctl(3, 0, 0, 0, 0)
""",
    )
    assert facts == {
        "owner": 1234, "mount": -1, "chroot": "PermissionError", "no_new_privs": 1, "dumpable": 0,
        "capabilities": [sandbox.KEPT, sandbox.KEPT, 0, 0, 0, 0],
    }  # fmt: skip


def test_no_network_is_left(share: Path) -> None:
    facts, _ = run(share, 'import socket\nfacts["interfaces"] = socket.if_nameindex()', before="import socket")
    assert facts == {"interfaces": [[1, "lo"]]}


# A host without namespaces for us: a user namespace in which there may be no further ones.
NO_NAMESPACES = """
import ctypes, os, sys
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10000000) == 0
for kind in ("user", "mnt", "net", "ipc"):
    Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
module = sys.argv.pop(1)
sys.path.insert(0, REPOSITORY)
import runpy
runpy.run_module(module, run_name="__main__")
"""


@contextlib.contextmanager
def without_namespaces(share: Path, *more: str, kind: str = "fs") -> Iterator["subprocess.Popen[str]"]:
    """Run the device where it gets no namespaces."""
    what = {
        "fs": [*SERVE, str(share)],
        "vsock": ["--uds-path", str(share.parent / "v"), "--guest-cid", "7"],
    }[kind]
    arguments = [f"guestforge.vhost.{kind}", "--socket", str(share.parent / "s"), *what, *more]
    program = NO_NAMESPACES.replace("REPOSITORY", repr(str(REPOSITORY)))
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["fs", "vsock"])
def test_without_namespaces_it_does_not_serve(share: Path, kind: str) -> None:
    with without_namespaces(share, kind=kind) as process:
        _, error = process.communicate(timeout=30)
        assert process.returncode == 1
    assert "no sandbox: namespaces of our own can't be had: unshare: " in error
    assert "--sandbox none" in error.splitlines()[-1]
    assert not (share.parent / "s").exists()


@pytest.mark.parametrize("kind", ["fs", "vsock"])
def test_without_namespaces_it_serves_where_that_is_asked_for(share: Path, kind: str) -> None:
    with without_namespaces(share, "--sandbox=none", kind=kind) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("no sandbox, as asked for (--sandbox none)" in line for line in lines)
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(share.parent / "s"))
        process.terminate()
        assert process.wait(30) == 0


def test_without_a_sandbox_the_rest_still_holds(share: Path) -> None:
    facts, error = run(
        share,
        """
facts["path"] = os.path.exists("/proc")
facts["import"] = attempt(lambda: __import__("evil"))
facts["no_new_privs"] = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)
""",
        kind="none",
    )
    assert facts == {"path": True, "import": "ModuleNotFoundError", "no_new_privs": 1}
    assert "no sandbox, as asked for" in error
