"""Builds in containers, without an engine or with one that is not what it should be."""

import contextlib
import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn

import pytest

from guestforge.arch import ARCHES, X86_64
from guestforge.cli.elsewhere import _words
from guestforge.core.errors import BuildError, UserError
from guestforge.core.need import Need
from guestforge.docker import apt, base, confine
from guestforge.docker.builder import recipe
from guestforge.docker.delegate import _environment
from guestforge.docker.engine import find_engine, refused
from guestforge.project.layout import RECIPES
from guestforge.project.option import read
from guestforge.project.options import BuildOptions, CheckOptions, MakeOptions, ProofOptions

HERE = os.uname().machine
OTHER = "x86_64" if HERE == "s390x" else "s390x"


class Liar(BaseHTTPRequestHandler):
    """An engine of another architecture."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        info = {"Architecture": OTHER}
        data = {"ApiVersion": "1.41", "MinAPIVersion": "1.12"} if self.path.endswith("/version") else info
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

    def address_string(self):
        return ""


class UnixServer(ThreadingMixIn, HTTPServer):
    daemon_threads = True
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "", 0


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the engine's socket would be."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    return tmp_path / "engine.sock"


def refusal():
    with pytest.raises(UserError) as caught:
        find_engine()
    return caught.value.report()


def test_no_engine(place):
    assert f"there is no Docker engine at unix://{place}" in refusal()
    assert "docker.io" in refusal()
    assert not place.exists()


def test_an_engine_that_is_not_running(place):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    assert f"no Docker engine answers at unix://{place}" in refusal()


@pytest.mark.usefixtures("place")
def test_an_engine_that_lets_nobody_in(monkeypatch):
    def connect(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert "does not let you in" in refusal()
    assert "group docker" in refusal()


def test_an_engine_that_answers_garbage(place):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as one:
                        one.recv(1000)
                        one.sendall(b"\x00\x01 nonsense\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert "no Docker engine answers" in refusal()


def test_an_engine_of_another_architecture(place):
    with UnixServer(str(place), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert f"is of {OTHER}, and this machine of {HERE}" in refusal()
        server.shutdown()


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:2375", "unix:/x", "fd://"])
def test_what_is_no_address_of_an_engine(monkeypatch, address):
    monkeypatch.setenv("DOCKER_HOST", address)
    assert "not the address of an engine" in refusal()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ssh://nobody@127.0.0.1:1"])
def test_an_engine_on_another_machine_that_does_not_answer(monkeypatch, address):
    monkeypatch.setenv("DOCKER_HOST", address)
    assert f"no Docker engine answers at {address}" in refusal()


def test_a_full_disk_has_its_remedy():
    assert "docker system prune" in refused("write /x: no space left on device", "x").report()
    assert "prune" not in refused("something else", "x").report()
    assert isinstance(refused("x", "y"), BuildError)


# the image

NEEDS = (Need("bc", tool="bc"), Need("make", tool="make"))
SOURCES = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"


@pytest.fixture
def etc(tmp_path, monkeypatch):
    """The host's /etc/apt, and its certificates."""
    etc = tmp_path / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "auth.conf.d").mkdir()
    (etc / "auth.conf.d" / "secret.conf").write_text("machine mirror.test login a password secret")
    (etc / "sources.list.d" / "debian.sources").write_text(SOURCES)
    monkeypatch.setattr(apt, "CERTIFICATES", tmp_path / "none")
    monkeypatch.setattr(apt, "_setting", lambda name: "false" if name.endswith("Check-Date") else "")
    return etc


def image(etc, needs=NEEDS, recipes=(RECIPES,), arches=(X86_64,)):
    return recipe(arches, needs, None, recipes, etc)


def test_the_tag_is_that_of_all_that_the_image_is_made_of(etc, tmp_path):
    first = image(etc).tag
    assert image(etc, needs=tuple(reversed(NEEDS))).tag == first
    assert image(etc, needs=(*NEEDS, Need("flex", tool="flex"))).tag != first
    assert image(etc, arches=(X86_64, ARCHES["s390x"])).tag != first
    (tmp_path / "builder").mkdir()
    (tmp_path / "builder" / "Dockerfile.j2").write_text("FROM {{ base }}\n")
    assert image(etc, recipes=(tmp_path, RECIPES)).tag != first
    (etc / "sources.list.d" / "debian.sources").write_text(SOURCES.replace("mirror", "other"))
    assert image(etc).tag != first


def test_packages_come_from_where_the_hosts_do_and_nothing_secret_is_in_the_image(etc):
    (etc / "sources.list.d" / "more.list").write_text(
        "deb http://other.test/debian trixie main\ndeb http://third.test/x bookworm-security main\n"
        "deb http://vendor.test/x stable main\ndeb cdrom:[x]/ bookworm main\n"
    )
    files = image(etc).files
    assert files[apt.SOURCES].decode() == f"{SOURCES}\n" + (
        "Types: deb\nURIs: http://third.test/x\nSuites: bookworm-security\nComponents: main\n"
    )
    assert files[apt.SETTINGS] == b'Acquire::Check-Date "false";\n'
    assert not [name for name, data in files.items() if b"secret" in data or "auth" in name]


def test_a_host_of_another_suite_lends_its_mirror(etc):
    (etc / "sources.list.d" / "debian.sources").write_text(SOURCES.replace("bookworm", "trixie"))
    assert b"URIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n" in image(etc).files[apt.SOURCES]


def test_a_key_that_the_host_names_is_in_the_image(etc, tmp_path):
    key = tmp_path / "key.gpg"
    key.write_bytes(b"key")
    (etc / "sources.list.d" / "debian.sources").write_text(f"{SOURCES}Signed-By: {key}\n")
    assert image(etc).files[str(key).lstrip("/")] == b"key"


def test_a_template_with_a_name_that_is_not_there_is_told_with_its_line(etc, tmp_path):
    template = tmp_path / "builder" / "Dockerfile.j2"
    template.parent.mkdir()
    template.write_text("FROM {{ base }}\nRUN {{ pakages }}\n")
    with pytest.raises(UserError, match=f"{template}:2: 'pakages' is undefined") as caught:
        image(etc, recipes=(tmp_path, RECIPES)).tag  # noqa: B018
    assert "docs/docker.md" in caught.value.report()


def test_our_template_installs_each_package_once(etc):
    text = image(etc).dockerfile("base:x")
    assert text.startswith("# ") and "\nFROM base:x\n" in text
    for name in ("bc", "make", "python3-venv"):
        assert text.count(f"    {name} \\\n") == 1


def test_proxies_of_apt_and_of_the_environment_reach_the_build(monkeypatch):
    monkeypatch.setattr(
        apt, "_setting", lambda name: "http://proxy.test:1" if name.startswith("Acquire::http:") else ""
    )
    assert apt.proxies({}) == {"http_proxy": "http://proxy.test:1"}
    assert apt.proxies({"http_proxy": "http://mine"}) == {"http_proxy": "http://mine"}


def test_what_cant_be_pulled_is_bootstrapped(etc, monkeypatch):
    """With the sources and settings that the image has."""
    ran, imported = [], []
    monkeypatch.setattr(base, "ensure", lambda _: None)
    monkeypatch.setattr(base, "run", lambda argv, **_: ran.append((argv, Path(argv[-1]).read_bytes())))
    monkeypatch.setattr(base, "_import", lambda *given: imported.append(given[-1]))
    base._bootstrap(None, "bookworm", image(etc).files)
    ((argv, sources),) = ran
    assert argv[0] == "mmdebstrap"
    assert "bookworm" in argv
    assert '--aptopt=Acquire::Check-Date "false"' in argv
    assert sources == image(etc).files[apt.SOURCES]
    assert imported == ["bookworm"]


# the container


def test_a_container_has_what_it_takes_and_no_more(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = confine.confinement((), is_podman=False, network=True)
    assert (found["cap_drop"], found["read_only"]) == (["ALL"], True)
    assert "cap_add" not in found
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert confine.confinement((), is_podman=False, network=False)["cap_add"] == ["SETFCAP"]
    options = confine.confinement(("name=apparmor", "name=seccomp"), is_podman=False, network=False)["security_opt"]
    assert options[0] == "no-new-privileges" and "apparmor=unconfined" in options
    profile = json.loads(options[1].removeprefix("seccomp="))
    (rule,) = profile["syscalls"]
    assert rule["action"] == "SCMP_ACT_ERRNO"
    assert {"bpf", "keyctl", "open_by_handle_at", "ptrace"} <= set(rule["names"])
    assert not {"unshare", "mount", "pivot_root", "clone"} & set(rule["names"])


def test_the_users_own_environment_stays_outside(monkeypatch, tmp_path):
    for name, value in {"PATH": "/mine", "SECRET": "x", "GOPROXY": "p", "PIP_CERT": "c", "TMPDIR": "/t"}.items():
        monkeypatch.setenv(name, value)
    found = _environment(tmp_path, tmp_path / "venv", Path("/home/me"), "docker x")
    assert {name: found.get(name) for name in ("PATH", "SECRET", "TMPDIR")} == dict.fromkeys(
        ("PATH", "SECRET", "TMPDIR")
    )
    assert (found["GOPROXY"], found["PIP_CERT"], found["HOME"]) == ("p", "c", "/home/me")
    assert (found["GUESTFORGE_CACHE"], found["GUESTFORGE_INSTALL"]) == (str(tmp_path), "never")


def test_the_words_there_say_what_was_said_here(tmp_path, monkeypatch):
    """Read again, anywhere, they make the same records."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent").touch()
    given = {
        "arch": "x86_64,arm64", "jobs": "3", "agent": "agent", "refresh": True, "output": "out", "runtime": "docker",
        "virtio-fs-server": "builtin", "timeout": "5", "verbose": True, "artifact": "image", "json": True,
        "mirror": None, "dry-run": False,
    }  # fmt: skip
    kinds = (BuildOptions, MakeOptions, CheckOptions, ProofOptions)
    before = [read(kind, given) for kind in kinds]
    words = dict((*word.removeprefix("--").split("=", 1), True)[:2] for word in _words(before, given))
    assert not {"runtime", "output", "project", "arch", "on"} & words.keys()
    monkeypatch.chdir("/")
    after = [
        read(kind, {**words, "arch": given["arch"], "output": str(tmp_path / "out"), "runtime": "docker"})
        for kind in kinds
    ]
    assert after == before
