"""Releases in an OCI registry: Debian's own, which skopeo reads too, and one that cuts, stalls and lies."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from faulty_proxy import USUAL, Fault, Proxy
from oci_registry import get, registry, skopeo, tags
from releases import VERSION, going_out, release_of_two, same_files, unverified, verify

from guestforge.core.errors import BuildError, GuestforgeError, UserError
from guestforge.core.progress import Bar
from guestforge.publish import http, patience
from guestforge.publish.address import find_place
from guestforge.publish.artifact import CHECKSUMS, GUEST, INDEX, MANIFEST, TITLE, artifacts
from guestforge.publish.credentials import Credentials
from guestforge.publish.registry import Registry
from guestforge.publish.token import RegistryAuth
from guestforge.release.names import ENVELOPE, SIGNATURE, SUFFIX, SUMS
from guestforge.release.sign import load_secret_key, make_key

TAG = "1.2.3-rc.1"
SLOW = pytest.mark.slow
ANY = f"{INDEX}, {MANIFEST}"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry") / "registry") as found:
        yield found


@pytest.fixture
def proxy(port, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(http, "SILENCE", 0.5)
    with Proxy(port) as found:
        yield found


@pytest.fixture
def repository(request):
    """A repository of the test's own."""
    return "guests/" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return release_of_two(tmp_path_factory.mktemp("made"), **{"System.map": os.urandom(300_000)})


def place(port, repository, tag=TAG):
    return find_place(f"oci://127.0.0.1:{port}/{repository}:{tag}", plain=False)


def fetched(port, repository, tmp_path, name="fetched"):
    (tmp_path / name).mkdir()
    place(port, repository).fetch(tmp_path / name)
    return tmp_path / name


def archives(release):
    return [name for name in release.files if name.endswith(SUFFIX)]


def test_a_release_comes_back_as_it_was(tmp_path, port, repository, made):
    release = going_out(made)
    assert place(port, repository).publish(release)
    back = fetched(port, repository, tmp_path)
    assert same_files(made, back)
    verify(back)
    before = get(port, f"{repository}/manifests/{TAG}", ANY)
    assert not place(port, repository).publish(release)
    assert get(port, f"{repository}/manifests/{TAG}", ANY) == before


def test_other_content_under_a_tag_is_refused_and_changes_nothing(tmp_path, port, repository, made):
    place(port, repository).publish(going_out(made))
    before = get(port, f"{repository}/manifests/{TAG}", ANY)
    other = going_out(release_of_two(tmp_path, "other"))
    with pytest.raises(UserError, match="with other content: a version is published once"):
        place(port, repository).publish(other)
    assert get(port, f"{repository}/manifests/{TAG}", ANY) == before


def test_skopeo_lists_inspects_and_copies(tmp_path, port, repository, made):
    place(port, repository).publish(going_out(made))
    address = f"docker://127.0.0.1:{port}/{repository}"
    assert TAG in json.loads(skopeo("list-tags", "--tls-verify=false", address))["Tags"]
    index = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"{address}:{TAG}"))
    platforms = [(one["platform"]["os"], one["platform"]["architecture"]) for one in index["manifests"]]
    assert platforms == [("linux", "arm64"), ("linux", "amd64"), ("unknown", "unknown")]
    assert index["manifests"][0]["platform"]["variant"] == "v8"
    # each architecture's archive, and no other
    for go, name in (("arm64", "aarch64"), ("amd64", "x86_64")):
        layout = tmp_path / go
        skopeo(f"--override-arch={go}", "copy", "--src-tls-verify=false", f"{address}:{TAG}", f"dir:{layout}")
        (archive,) = made.glob(f"*-{name}{SUFFIX}")
        assert (layout / hashlib.sha256(archive.read_bytes()).hexdigest()).read_bytes() == archive.read_bytes()
        manifest = json.loads((layout / "manifest.json").read_text())
        assert (manifest["artifactType"], manifest["layers"][0]["annotations"][TITLE]) == (GUEST, archive.name)
    # a mirror that skopeo makes is whole, with the same digest, and is fetched from
    mirror = f"docker://127.0.0.1:{port}/mirror/{repository}:{TAG}"
    both = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", "--all", "--preserve-digests", *both, f"{address}:{TAG}", mirror)
    assert same_files(made, fetched(port, f"mirror/{repository}", tmp_path))
    skopeo("copy", "--all", "--preserve-digests", both[0], f"{address}:{TAG}", f"oci:{tmp_path / 'layout'}:x")
    blobs = {path.name for path in (tmp_path / "layout/blobs/sha256").iterdir()}
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in made.iterdir()} <= blobs


def test_referrers_are_found_by_the_tag_scheme(tmp_path, port, repository, monkeypatch):
    monkeypatch.setenv("GUESTFORGE_RELEASE_KEY_PASSWORD", "")
    make_key(tmp_path / "key", lambda _: "")
    made = release_of_two(tmp_path, key=load_secret_key(tmp_path / "key", lambda _: ""))
    assert place(port, repository).publish(going_out(made))
    index = get(port, f"{repository}/manifests/{TAG}", ANY)[1]
    assert _referrers(port, repository, index) == {
        CHECKSUMS: [SUMS, SIGNATURE],
        "application/vnd.dsse.envelope.v1+json": [ENVELOPE],
        "application/vnd.minisign.signature": [f"{ENVELOPE}.minisig"],
    }
    guest = next(one for one in json.loads(index)["manifests"] if one["platform"]["architecture"] == "amd64")
    manifest = get(port, f"{repository}/manifests/{guest['digest']}", ANY)[1]
    name = f"guestforge-minimal-{VERSION}-x86_64"
    assert _referrers(port, repository, manifest) == {
        "application/vnd.cyclonedx+json": [f"{name}.cdx.json"], "application/spdx+json": [f"{name}.spdx.json"],
    }  # fmt: skip


def _referrers(port, repository, subject):
    """The titles of the layers of what refers to a manifest, by artifact type."""
    digest = hashlib.sha256(subject).hexdigest()
    listed = json.loads(get(port, f"{repository}/manifests/sha256-{digest}", ANY)[1])["manifests"]
    found = {}
    for one in listed:
        data = get(port, f"{repository}/manifests/{one['digest']}", ANY)[1]
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (one["digest"][7:], one["size"])
        manifest = json.loads(data)
        assert manifest["subject"]["digest"] == f"sha256:{digest}"
        assert manifest["artifactType"] == one["artifactType"]
        found[one["artifactType"]] = [layer["annotations"][TITLE] for layer in manifest["layers"]]
    return found


# Where a request may fail, of each kind that publishing has
PUBLISHING = {
    "tag": ("GET", f"/manifests/{TAG}"),
    "blob there": ("HEAD", "/blobs/sha256"),
    "upload begun": ("POST", "/blobs/uploads/"),
    "upload": ("PATCH", "/blobs/uploads/"),
    "upload ended": ("PUT", "/blobs/uploads/"),
    "manifest": ("PUT", "/manifests/sha256:"),
    "referrers": ("PUT", "/manifests/sha256-"),
    "tag set": ("PUT", f"/manifests/{TAG}"),
}
FAULTS = {
    **USUAL,
    "503": {"kind": "status", "at": 503, "headers": {"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}},
}


@pytest.mark.parametrize("where", PUBLISHING)
@pytest.mark.parametrize("fault", [fault if fault == "429" else pytest.param(fault, marks=SLOW) for fault in FAULTS])
def test_what_fails_once_is_done_again(tmp_path, port, proxy, repository, made, where, fault):
    proxy.faults.append(Fault(*PUBLISHING[where], **FAULTS[fault]))
    release = going_out(made)
    place(proxy.port, repository).publish(release)
    assert proxy.faults[0].met == 1
    assert get(port, f"{repository}/manifests/{TAG}", ANY)[1] == artifacts(release).index.data
    assert same_files(made, fetched(port, repository, tmp_path))


# The end of an upload has no body that could be cut.
ALWAYS = [(where, fault) for where in PUBLISHING for fault in ("cut", "garbage", "500", "429")
          if (where, fault) != ("upload ended", "cut")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("where", "fault"), ALWAYS)
def test_what_fails_always_is_a_clear_error_and_nothing_shows(port, proxy, repository, made, where, fault):
    proxy.faults.append(Fault(*PUBLISHING[where], **FAULTS[fault], times=10_000))
    if fault == "cut":
        proxy.faults[0].at = 10
    start = time.monotonic()
    with pytest.raises(GuestforgeError) as caught:
        place(proxy.port, repository).publish(going_out(made))
    assert time.monotonic() - start < 30
    assert f"127.0.0.1:{proxy.port}/{repository}" in caught.value.message
    assert "\x1b" not in caught.value.report()
    assert TAG not in tags(port, repository)
    # and once it is over, the same command does what is left
    proxy.faults.clear()
    assert place(proxy.port, repository).publish(going_out(made))


def test_a_registry_that_asks_for_hours_is_not_waited_for(proxy, repository, made):
    proxy.faults.append(Fault("POST", "uploads", "status", 429, headers={"Retry-After": "7200"}))
    with pytest.raises(BuildError, match="it answers 429") as caught:
        place(proxy.port, repository).publish(going_out(made))
    assert "7200 s" in caught.value.report()


def test_a_pause_that_is_asked_for_is_made(monkeypatch, proxy, repository, made):
    pauses = []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)
    proxy.faults.append(Fault("POST", "uploads", "status", 503, headers={"Retry-After": "7"}))
    place(proxy.port, repository).publish(going_out(made))
    assert pauses == [7.0]


def test_blobs_that_are_there_are_not_sent_again(proxy, repository, made):
    proxy.faults.append(Fault("PUT", "/manifests/", "status", 403, times=10_000))
    release = going_out(made)
    with pytest.raises(UserError, match="403"):
        place(proxy.port, repository).publish(release)
    assert len(proxy.sent("PATCH", "uploads")) == len(release.files)
    proxy.seen.clear()
    proxy.faults.clear()
    place(proxy.port, repository).publish(release)
    assert proxy.sent("PATCH", "uploads") == []


class Keeping(BaseHTTPRequestHandler):
    """A registry that keeps what came of an upload that was cut, and says so: docker-registry forgets it."""

    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_):
        pass

    def answer(self, status, size=0, **headers):
        self.send_response_only(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_HEAD(self):
        self.answer(200 if self.server.done else 404, size=len(self.server.come))

    def do_POST(self):
        self.answer(202, Location="/up?state=0")

    def do_GET(self):
        self.answer(204, Location=f"/up?state={len(self.server.come)}", Range=f"0-{len(self.server.come) - 1}")

    def do_PATCH(self):
        length, start = int(self.headers["Content-Length"]), len(self.server.come)
        assert self.path == f"/up?state={start}"
        assert self.headers["Content-Range"] == f"{start}-{start + length - 1}"
        self.server.parts.append((start, length))
        end = start + (self.server.most if len(self.server.parts) < 4 else length)
        while len(self.server.come) < min(end, start + length):
            self.server.come += self.rfile.read(min(1000, end - len(self.server.come)))
        if end < start + length:
            self.close_connection = True
        else:
            self.answer(202, Location=f"/up?state={len(self.server.come)}")

    def do_PUT(self):
        self.server.done = hashlib.sha256(self.server.come).hexdigest() in self.path
        self.answer(201 if self.server.done else 400)


def test_a_registry_that_keeps_what_has_come_gets_the_rest_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    data = os.urandom(1_000_000)
    (tmp_path / "file").write_bytes(data)
    with ThreadingHTTPServer(("127.0.0.1", 0), Keeping) as server, (tmp_path / "file").open("rb") as file:
        server.come, server.parts, server.done, server.most = b"", [], False, 200_000
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        client = http.Client("it", RegistryAuth(base, "", Credentials, plain=False))
        shown = Bar("test", None, "B")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        Registry(client, base, "a").send_blob(file, "file", digest, len(data), shown)
        server.shutdown()
    assert server.come == data
    assert [start for start, _ in server.parts] == [0, 200_000, 400_000, 600_000]
    assert shown.count == len(data)


LIES = {
    "another digest of a manifest": ("PUT", "/manifests/sha256:", "header", {"Docker-Content-Digest": "sha256:0"}),
    "another size of a blob": ("HEAD", "/blobs/sha256", "header", {"Content-Length": "3"}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_registry_that_lies_is_not_believed(port, proxy, repository, made, lie):
    place(port, repository, "before").publish(going_out(made))
    method, path, kind, headers = LIES[lie]
    proxy.faults.append(Fault(method, path, kind, headers=headers, times=10_000))
    with pytest.raises(BuildError):
        place(proxy.port, repository).publish(going_out(made))
    assert TAG not in tags(port, repository)


FETCHING = {
    "cut": {"kind": "cut answer", "at": 100_000},
    "cut at once": {"kind": "cut answer"},
    "stall": {"kind": "stall"},
    "garbage": {"kind": "garbage"},
    "500": {"kind": "status", "at": 500},
    "429": {"kind": "status", "at": 429, "headers": {"Retry-After": "0"}},
    "changed": {"kind": "flip"},
    "too long": {"kind": "length", "at": 10},
    "too short": {"kind": "length", "at": -10},
    "another part": {"kind": "status", "at": 206, "headers": {"Content-Range": "bytes 5-10/20"}},
}


# A document has no digest of its own: what a changed one leads to is verified. So these are of blobs alone.
BLOBS_ALONE = {"changed", "too short", "another part"}
ONCE = [(what, fault) for what in ("blobs/sha256", "manifests/") for fault in FETCHING
        if what != "manifests/" or fault not in BLOBS_ALONE]  # fmt: skip


@pytest.mark.parametrize(("what", "fault"), ONCE)
def test_what_fails_once_is_fetched_again(tmp_path, port, proxy, repository, made, fault, what):
    place(port, repository).publish(going_out(made))
    proxy.faults.append(Fault("GET", what, **FETCHING[fault]))
    assert same_files(made, fetched(proxy.port, repository, tmp_path))
    assert proxy.faults[0].met == 1


@pytest.mark.parametrize("fault", [fault for fault in FETCHING if fault != "cut"])  # which goes on and on
def test_what_fails_always_is_not_fetched(tmp_path, port, proxy, repository, made, fault):
    place(port, repository).publish(going_out(made))
    archive = archives(going_out(made))[0]
    digest = going_out(made).files[archive].sha256
    proxy.faults.append(Fault("GET", f"blobs/sha256:{digest}", **FETCHING[fault], times=10_000))
    with pytest.raises(BuildError, match=archive.replace("+", r"\+")):
        fetched(proxy.port, repository, tmp_path)


def test_a_download_goes_on_where_it_was_cut(tmp_path, port, proxy, repository, made):
    place(port, repository).publish(going_out(made))
    archive = archives(going_out(made))[0]
    digest = going_out(made).files[archive].sha256
    proxy.faults.append(Fault("GET", f"blobs/sha256:{digest}", "cut answer", 100_000, times=3))
    asked = []
    original = http.Client.opened

    def opened(self, method, url, **more):
        asked.append((more.get("headers") or {}).get("Range"))
        return original(self, method, url, **more)

    http.Client.opened = opened
    try:
        assert same_files(made, fetched(proxy.port, repository, tmp_path))
    finally:
        http.Client.opened = original
    assert "bytes=100000-" in asked


def test_a_tag_that_is_something_else_is_no_release(tmp_path, port, repository):
    with pytest.raises(UserError, match="is not there"):
        fetched(port, repository, tmp_path)


def test_a_wrong_file_in_a_registry_does_not_verify(tmp_path, port, repository, made):
    release = going_out(made)
    place(port, repository).publish(release)
    back = fetched(port, repository, tmp_path)
    (back / archives(release)[0]).write_bytes(b"x")
    unverified(back, archives(release)[0])


KILLED = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from releases import going_out
from guestforge.publish.address import find_place
release = going_out(Path(sys.argv[1]))
print("ready", flush=True)
find_place(sys.argv[2], plain=False).publish(release)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["oci", "file"])
def test_after_a_kill_nothing_shows_and_the_next_one_does_it(tmp_path, port, repository, kind):
    made = release_of_two(tmp_path, **{"System.map": os.urandom(8_000_000)})
    to = {"oci": f"oci://127.0.0.1:{port}/{repository}:{TAG}", "file": f"file:{tmp_path / 'public'}"}[kind]
    killed = 0
    for delay in (0.0, 0.01, 0.02, 0.04, 0.06):
        argv = [sys.executable, "-c", KILLED.format(path=sys.path), str(made), to]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.kill()
        process.communicate()
        killed += process.returncode == -9
        if kind == "oci" and TAG in tags(port, repository):
            (tmp_path / f"back{delay}").mkdir()
            find_place(to, plain=False).fetch(tmp_path / f"back{delay}")
            assert same_files(made, tmp_path / f"back{delay}")
        if kind == "file" and (tmp_path / "public" / VERSION).exists():
            assert same_files(made, tmp_path / "public" / VERSION)
    assert killed
    find_place(to, plain=False).publish(going_out(made))
    (tmp_path / "back").mkdir()
    find_place(to, plain=False).fetch(tmp_path / "back")
    assert same_files(made, tmp_path / "back")
    if kind == "file":
        assert {path.name for path in (tmp_path / "public").iterdir()} == {VERSION, "latest"}
