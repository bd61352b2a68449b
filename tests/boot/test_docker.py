"""`--runtime docker` with a real engine: built and booted there, the same as here, and every way to be cut short."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path

import docker
import pytest
from command import INVOKE, Running, invoke
from conftest import BOOT
from docker_engine import dockerd
from oci_registry import free_port

from guestforge.arch import X86_64
from guestforge.core.cache import user_cache
from guestforge.docker import engine as engine_module
from guestforge.docker.container import Command, Runs, run
from guestforge.docker.engine import find_engine
from guestforge.docker.owner import LABEL
from guestforge.docker.shipping import shipped
from guestforge.release.names import FILES_OF_A_GUEST
from guestforge.testing.oci_images import busybox

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="dockerd needs root"),
]
IMAGE = "test:busybox"
BASE = "localhost/guestforge-base-bookworm:latest"
SLEEP = ("sh", "-c", "echo here; exec sleep 600")
# a project's own: what an agent takes, which Go compiles
OWN_IMAGE = """FROM {{ base }}
COPY root /
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-venv
COPY root /
"""
DRIVER = """
import sys
from pathlib import Path
from guestforge.core.signals import heeded, interrupt_on
from guestforge.docker.container import Command, Runs, run
from guestforge.docker.engine import find_engine
interrupt_on(heeded())
image, *words = sys.argv[1:]
run(find_engine(), image, Command(tuple(words), {}, Path("/"), (), False, Path("/root")), Runs())
"""


@pytest.mark.long
def test_a_guest_is_built_and_booted_there_and_is_the_one_that_is_built_here(tmp_path_factory, pipeline, request):
    """The base image, the builder image and both boots each time; the sources and the kernel where a store lacks them.

    That is a store of what Docker made alone. It stays, as the user's does, so that a kernel is compiled there once.
    """
    place = tmp_path_factory.mktemp("there")
    cache = user_cache().path / "work" / "tests-docker"
    folder = place / "output" / "x86_64" / "minimal"
    words = ("build", "--arch", "x86_64", "--runtime", "docker", "--output", str(place / "output"))
    port, certificates = free_port(), keys(place / "keys")
    far = (f"--host=tcp://127.0.0.1:{port}", "--tlsverify", *certificates)
    with dockerd(place / "engine", *far) as (_, address):
        settings = {"GUESTFORGE_CACHE": cache, "DOCKER_HOST": address, "NO_COLOR": "1"}
        command = Running(INVOKE, "check", *words[1:], **settings)
        command.limit = 1500.0
        first = command.end()
        first.assert_told(0, "can't be pulled", f"bootstrapping {BASE}", "making the builder image")
        (image,) = set(re.findall(r"localhost/guestforge-builder:\w+", first.text))
        manifest = json.loads((folder / "manifest.json").read_text())
        again = invoke(*words, **settings)
        mistaken = invoke(*words, "--guest", "minmal", **settings)
        elsewhere = {
            "DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": place / "keys",
            "GUESTFORGE_CACHE": place / "other",
        }  # fmt: skip
        sent = invoke("agent", *words[1:-1], str(place / "sent"), **elsewhere)
        nobody = invoke("agent", *words[1:-1], str(place / "nobody"), **{**elsewhere, "DOCKER_CERT_PATH": place})
        lost, over_both = lose_one(place, address, words, elsewhere)
        client = docker.DockerClient(base_url=address)
        volumes = [volume.name for volume in client.volumes.list()]
        labels = client.images.get(image).labels
        left = client.containers.list(all=True)
    # the same files as the host's, by the same compiler
    here = pipeline("x86_64").artifacts()
    assert {name: manifest["artifacts"][name] for name in FILES_OF_A_GUEST} == {
        artifact.name: artifact.entry.files[artifact.file].published() for artifact in here
    }
    assert {step["runtime"] for step in manifest["steps"].values()} == {f"docker {image}"}
    assert {path.stat().st_uid for path in folder.rglob("*")} == {os.geteuid()}
    for artifact in ("initrd", "image"):
        assert json.loads((folder / "check" / artifact / "report.json").read_text())["verdict"] == "pass"
    assert len(first.boots) == 2
    request.node.user_properties.extend((BOOT, f"{line} (in a container)") for line in first.boots)
    # all of it once
    again.assert_told(0, "x86_64 kernel             reused", "passed before")
    assert "making" not in again.text
    mistaken.assert_told(1, "minmal", "minimal")
    assert labels["org.opencontainers.image.title"] == "guestforge-builder"
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert "x86_64" in labels["org.opencontainers.image.description"]
    assert left == []
    # and on an engine that has none of this machine's files, over TLS: sent, made, brought home
    sent.assert_told(0, "fetching minimal")
    agent = pipeline("x86_64").agent.file("agent").read_bytes()
    assert (place / "sent" / "x86_64" / "minimal" / "agent").read_bytes() == agent
    assert volumes == [f"guestforge-cache-{os.geteuid()}"]
    # spread over that engine and one that is lost: what it had is made at the one that is left
    lost.assert_told(0, "went away", f"aarch64: at {over_both[0]}", f"x86_64: at {over_both[1]}")
    assert {path.parts[-3] for path in (place / "spread").glob("*/minimal/agent")} == {"aarch64", "x86_64"}
    nobody.assert_told(1, "does not have the certificates for the engine")


def lose_one(place, address, words, elsewhere):
    """Spread two agents over an engine and a second one, and kill that once it is at work; how it ended, and where."""
    project = place / "project"
    (project / "recipes" / "builder").mkdir(parents=True)
    (project / "guestforge.toml").touch()
    (project / "recipes" / "builder" / "Dockerfile.j2").write_text(OWN_IMAGE)
    with dockerd(place / "second") as (process, second):
        client = docker.DockerClient(base_url=second)
        base = docker.DockerClient(base_url=address).images.get(BASE)
        client.images.load(base.save(named=True))
        engines = (elsewhere["DOCKER_HOST"], second)
        command = Running(
            INVOKE, "agent", "--arch", "aarch64,x86_64", *words[3:-1], str(place / "spread"),
            "--project", str(project), "--on", ",".join(engines), **elsewhere,
        )  # fmt: skip
        command.limit = 600.0
        while not client.containers.list(filters={"label": LABEL}, ignore_removed=True):
            assert command.runs, command.end().text
            time.sleep(0.2)
        process.kill()
        process.wait()
        return command.end(), engines


def keys(place):
    """Make certificates of an engine and of its client, as Docker calls the files; the engine's options."""
    place.mkdir()
    key, ca = place / "ca-key.pem", place / "ca.pem"
    openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", key, "-out", ca, "-subj", "/CN=ca", "-days", "2")
    for name in ("server", ""):
        prefix = f"{name}-" if name else ""
        own, asked, made = place / f"{prefix}key.pem", place / "request.pem", place / f"{prefix}cert.pem"
        openssl("req", "-newkey", "ed25519", "-nodes", "-keyout", own, "-out", asked, "-subj", "/CN=x")
        more = place / "more"
        more.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        words = ("-CA", ca, "-CAkey", key, "-CAcreateserial", "-extfile", more, "-days", "2")
        openssl("x509", "-req", "-in", asked, "-out", made, *words)
    return f"--tlscacert={ca}", f"--tlscert={place / 'server-cert.pem'}", f"--tlskey={place / 'server-key.pem'}"


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def layer():
    """An image's one layer: busybox, as all programs that are asked for here."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as tar:
        data = busybox(X86_64).read_bytes()
        info = tarfile.TarInfo("bin/busybox")
        info.size, info.mode = len(data), 0o755
        tar.addfile(info, io.BytesIO(data))
        for name in ("cat", "grep", "id", "ls", "sh", "sleep", "touch"):
            info = tarfile.TarInfo(f"bin/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
    return found.getvalue()


@pytest.fixture(scope="module")
def started_engine(layer):
    """Start an engine with the image in a directory, for all who ask; its process and a client."""

    @contextlib.contextmanager
    def start(directory):
        with dockerd(directory) as (process, address), pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", address)
            client = docker.DockerClient(base_url=address)
            client.api.import_image_from_data(layer, repository="test", tag="busybox")
            yield process, client

    return start


@pytest.fixture(scope="module")
def engine(started_engine, tmp_path_factory):
    with started_engine(tmp_path_factory.mktemp("engine")) as (_, client):
        yield client


def sh(script):
    """Run a script in a container as a build is run, without network."""
    environment = {"A": "b", "PATH": "/bin"}
    command = Command(("sh", "-c", script), environment, Path("/"), (), False, Path("/root"))
    return run(find_engine(), IMAGE, command, Runs())


@pytest.mark.usefixtures("engine")
def test_a_container_may_do_little(capfdbinary):
    """No network but its own loopback, nothing to write to, no rights; and its streams and its exit code are ours."""
    script = """
        grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
        echo links: `ls /sys/class/net`
        for each in /x /bin/x /etc/x; do touch $each; done
        echo user: `id -u` `id -g` $A
        touch /tmp/x /root/x || exit 1
        exit 7
    """
    assert sh(script) == 7
    found = capfdbinary.readouterr()
    lines = {
        name: value.split() for name, _, value in (line.partition(":") for line in found.out.decode().splitlines())
    }
    assert lines["CapEff"] == lines["CapBnd"] == ["0000000080000000"]  # SETFCAP
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == (["1"], ["2"])
    assert lines["links"] == ["lo"]
    assert lines["user"] == [str(os.getuid()), str(os.getgid()), "b"]
    assert found.err.count(b"Read-only file system") == 3


@pytest.mark.usefixtures("engine")
def test_a_quiet_command_is_waited_for(capfdbinary, monkeypatch):
    """Longer than the engine has to answer anything else."""
    monkeypatch.setattr(engine_module, "LIMIT", 2)
    assert sh("sleep 5; echo done") == 0
    assert b"done" in capfdbinary.readouterr().out


def started():
    """A process that runs a container, which has said that it runs."""
    argv = [sys.executable, "-c", DRIVER, IMAGE, *SLEEP]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.stdout.readline()
    assert said == b"here\n", said + process.stdout.read()
    return process


def error_of(process):
    """What the process ended with, its whole traceback in one line."""
    text = process.communicate(timeout=60)[0].decode()
    assert process.returncode not in (0, None)
    return text.replace("\n", " ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_removes_the_container(engine, number):
    process = started()
    assert len(engine.containers.list()) == 1
    process.send_signal(number)
    process.communicate(timeout=40)
    assert engine.containers.list(all=True) == []


def test_what_a_killed_run_left_is_removed_by_the_next(engine):
    process, other = started(), started()
    process.kill()
    process.communicate()
    assert len(engine.containers.list()) == 2
    gone = engine.containers.list()[-1].labels[LABEL]
    engine.volumes.create("ours", labels={LABEL: gone})
    engine.volumes.create("theirs", labels={LABEL: f"{uuid.uuid4()} 1 1"})  # of another machine's run
    script = "from guestforge.docker.owner import remove_orphans; remove_orphans(find_engine())"
    script = f"from guestforge.docker.engine import find_engine; {script}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "removing the container of a run that was killed" in done.stderr
    assert len(engine.containers.list(all=True)) == 1  # of one who runs
    assert [volume.name for volume in engine.volumes.list() if volume.name in ("ours", "theirs")] == ["theirs"]
    engine.volumes.get("theirs").remove()
    other.terminate()
    other.communicate(timeout=40)
    assert engine.containers.list(all=True) == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda container: container.kill(), "was killed from outside"),
        (lambda container: container.remove(force=True), "was (killed from outside|removed while it ran)"),
    ],
)
def test_a_container_that_somebody_ends(engine, how, message):
    process = started()
    how(engine.containers.list()[0])
    assert re.search(f"BuildError: the container {message}", error_of(process))
    assert engine.containers.list(all=True) == []


def test_an_engine_that_goes_away(started_engine, tmp_path):
    with started_engine(tmp_path / "engine") as (daemon, client):
        process = started()
        (container,) = client.containers.list()
        pid = container.attrs["State"]["Pid"]
        daemon.kill()
        daemon.wait()
        try:
            assert re.search(r"EngineGoneError: .*went away", error_of(process))
        finally:
            os.kill(pid, signal.SIGKILL)  # which its engine would have ended


def test_files_are_sent_and_brought_home(engine, tmp_path):
    """The cache's volume stays for the next run, and no other."""
    project, output, cache = tmp_path / "project", tmp_path / "output", tmp_path / "cache"
    (project / "recipes").mkdir(parents=True)
    (project / "recipes" / "x.toml").write_text("recipe")
    (project / "secret").write_text("not sent")
    output.mkdir()
    script = (
        f"ls {project}; cat {project}/recipes/x.toml; touch {cache}/again; mkdir -p {output}/x86_64/minimal;"
        f" ls {cache}; id -u; echo made > {output}/x86_64/minimal/kernel"
    )
    for expected in ("again", "again"):
        found = find_engine()
        with shipped(found, IMAGE, cache, (project,), output) as files:
            command = Command(("sh", "-c", script), {"PATH": "/bin"}, Path("/"), files.mounts, False, Path("/root"))
            assert run(found, IMAGE, command, Runs()) == 0
            files.bring_home(output, ["x86_64/minimal", "s390x/minimal"])
        assert [volume.name for volume in engine.volumes.list()] == [f"guestforge-cache-{os.geteuid()}"], expected
    assert (output / "x86_64" / "minimal" / "kernel").read_text() == "made\n"
    assert sorted(path.name for path in output.iterdir()) == ["x86_64"]
    assert engine.containers.list(all=True) == []


def test_an_engine_without_room(tmp_path, started_engine):
    """The data root takes the small image, and not the base of the builder's."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "none", small], check=True)
    try:
        with started_engine(small) as (_, client):
            words = ("kernel", "--arch", "x86_64", "--runtime", "docker", "--output", str(tmp_path / "output"))
            settings = {"GUESTFORGE_CACHE": tmp_path / "cache", "DOCKER_HOST": os.environ["DOCKER_HOST"]}
            invoke(*words, **settings).assert_told(2, "no space left on device", "docker system prune")
            assert [tag for each in client.images.list() for tag in each.tags] == [IMAGE]
        assert not (tmp_path / "output").exists()
    finally:
        unmount(small)


def unmount(place):
    """Unmount it as soon as what the engine started has left it."""
    end = time.monotonic() + 20
    while subprocess.run(["umount", place], check=False, stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < end
        time.sleep(0.2)
