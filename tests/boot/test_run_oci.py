"""`invoke run --oci`: images of each architecture, made here, in real guests."""

import os
import pty
import select
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from guestforge.arch import S390X, X86_64
from guestforge.testing.oci_images import busybox, make_layout, member

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]
REPOSITORY = Path(__file__).resolve().parents[2]
INVOKE = str(Path(sys.executable).with_name("invoke"))

APPLETS = ("cat", "echo", "head", "id", "ls", "mkdir", "mount", "nc", "sh", "sleep", "stty", "tr", "wget")
PASSWD = "root:x:0:0::/root:/bin/sh\nservice:x:1234:1235::/srv:/bin/sh\n"


@pytest.fixture
def image(tmp_path, built):
    """An image of busybox for an architecture, which says what it is by itself."""

    def make(arch):
        assert built(arch.name).kernel.exists()  # so that no command builds it in its own time
        tree = {"/bin/busybox": busybox(arch), "/etc/passwd": PASSWD, "/etc/group": "g:x:1235:\n"}
        links = [member(f"/bin/{name}", tarfile.SYMTYPE, linkname="busybox") for name in APPLETS]
        own = ("/bin/sh", "-c", "echo the image")
        place = tmp_path / f"image-{arch.name}"
        return make_layout(place, tree, arch, args=own, env=("A=image",), cwd="/work", layers=[links])

    return make


def contain(arch, image, *words, given=b"", limit=120):
    """Run a container to its end; the words after `--` are its command."""
    argv = [INVOKE, "run", "--arch", arch.name, "--oci", str(image), *words]
    return subprocess.run(argv, input=given, capture_output=True, timeout=limit, cwd=REPOSITORY, check=False)


def sh(script):
    return ("--", "/bin/sh", "-c", script)


def test_a_container_has_our_streams_and_its_exit_code_is_ours(image, arch_row, tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "ours").write_text("from the host\n")
    script = (
        'echo "$A,$B"; id -u; id -g; pwd; cat /data/ours; echo error >&2; cat; echo x >/new && cat /new;'
        " echo y >/data/theirs; echo z >/fixed/no; exit 7"
    )
    ended = contain(
        arch_row, image(arch_row), "--env", "A=1,2", "--env", "B=b c", "--volume", f"{tmp_path}/volume:/data",
        "--volume", f"{tmp_path}/volume:/fixed:ro", "--memory", "64m", "--cpus", "0.5", *sh(script), given=b"typed\n",
    )  # fmt: skip
    said = ended.stdout.decode().splitlines()
    assert said == ["1,2,b c", "0", "0", "/work", "from the host", "typed", "x"], ended.stderr.decode()
    assert ended.returncode == 7
    assert "\nerror\n" in ended.stderr.decode()
    assert "/fixed/no: Read-only file system" in ended.stderr.decode()
    assert (tmp_path / "volume" / "theirs").read_text() == "y\n"


def test_an_image_is_as_it_was_and_runs_its_own_program(image):
    made = image(X86_64)
    assert contain(X86_64, made, *sh("echo changed >/etc/passwd")).returncode == 0
    ended = contain(X86_64, made, "--user", "service")
    assert (ended.stdout, ended.returncode) == (b"the image\n", 0), ended.stderr.decode()
    ended = contain(X86_64, made, "--user", "service", *sh("id -u; id -g; cat /etc/passwd"))
    assert ended.stdout.decode() == f"1234\n1235\n{PASSWD}"


def test_programs_that_can_not_be_run_are_told(image):
    made = image(X86_64)
    for words, code in ((("--", "/nothing"), 127), (("--", "/etc/passwd"), 126)):
        ended = contain(X86_64, made, *words)
        assert ended.returncode == code
        assert f"error: {words[-1]}: " in ended.stderr.decode()
        assert b"Traceback" not in ended.stderr


def test_an_image_of_another_architecture_is_an_error(image):
    ended = contain(S390X, image(X86_64))
    assert ended.returncode == 1
    assert "--arch" in ended.stderr.decode()


def test_sixteen_mebibytes_come_through_and_a_reader_may_leave(image):
    made = image(X86_64)
    data = os.urandom(1 << 20) * 16
    ended = contain(X86_64, made, "--", "/bin/cat", given=data)
    assert ended.stdout == data
    command = f"exec {INVOKE} run --arch x86_64 --oci {made} -- /bin/sh -c 'while echo y; do :; done'"
    piped = subprocess.run(
        f"({command}) | head -n 1", shell=True, capture_output=True, timeout=120, cwd=REPOSITORY, check=True
    )
    assert piped.stdout == b"y\n"


def test_a_container_reaches_the_network_where_it_is_asked_for(image, tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "page").write_text("a page\n")
    server = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", tmp_path / "www"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        try:
            port = serving.stdout.readline().split(" port ")[1].split()[0]
            fetch = sh(f"wget -q -O - http://10.0.2.2:{port}/page; cat /etc/resolv.conf")
            made = image(X86_64)
            ended = contain(X86_64, made, "--network", "user", *fetch)
            assert ended.stdout == b"a page\nnameserver 10.0.2.3\n", ended.stderr.decode()
            assert b"a page" not in contain(X86_64, made, *fetch).stdout
        finally:
            serving.kill()


def test_a_terminal_is_the_containers(image):
    made = image(X86_64)
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.execv(INVOKE, [INVOKE, "run", "--arch", "x86_64", "--oci", str(made), "--", "/bin/sh"])
    shown = ""

    def wait(text, limit=60.0):
        nonlocal shown
        deadline = time.monotonic() + limit
        while text not in shown:
            left = deadline - time.monotonic()
            assert left > 0, shown
            if select.select([master], [], [], left)[0]:
                shown += os.read(master, 4096).decode(errors="replace")

    try:
        wait("# ")
        os.write(master, b"sh -c 'stty size; exec sleep 1000'\r")  # one group of processes from here to there
        wait("24 80")
        os.write(master, b"\x03")  # ends the program in the guest, and nothing of ours
        os.write(master, b"exit $((6*7))\r")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 42, shown
    finally:
        os.close(master)


def test_ctrl_c_ends_a_container_without_a_terminal_and_leaves_nothing(image, scene):
    made = image(X86_64)
    argv = [INVOKE, "run", "--arch", "x86_64", "--oci", str(made), *sh("echo runs; sleep 1000")]
    environment = {**os.environ, **scene.environment}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=REPOSITORY, env=environment) as running:
        assert running.stdout.readline() == b"runs\n"
        running.send_signal(2)
        assert running.wait(20) == 130
