"""Whose rights apt's downloads have: as root those of its own user, seen while a real apt fetches from a server."""

import http.server
import os
import pwd
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest

from guestforge.core.errors import BuildError
from guestforge.core.graph import Evaluation
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.sources import aptconf, aptplace, resolution
from guestforge.sources.hostapt import Mirror
from guestforge.sources.packages import package_step
from guestforge.sources.resolution import Wanted
from guestforge.testing.debian_archive import Archive, Key

WHO = "_apt" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


class Server(http.server.ThreadingHTTPServer):
    """Serves a directory, and notes at each request as whom apt's methods run."""

    daemon_threads = True

    def __init__(self, directory):
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=directory))
        self.seen = set()
        self.cut = ""


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.seen |= set(methods())
        if self.server.cut and self.server.cut in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half of it")
            self.connection.close()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


def methods():
    """Yield the user of each method of apt that fetches by HTTP."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "exe").readlink().name == "http":
                yield pwd.getpwuid(process.stat().st_uid).pw_name
        except OSError:
            continue


@pytest.fixture
def place(open_place, tmp_path):
    """A directory of this test that all users get to."""
    made = open_place / tmp_path.name
    made.mkdir()
    return made


@pytest.fixture
def server(place, tmp_path, monkeypatch):
    key = Key(place / "key")
    archive = Archive(place / "archive", "trixie")
    archive.add(tmp_path, "hello", "2.0", "arm64", {"usr/bin/hello": b"x"})
    archive.publish(key)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(aptconf, "HOST_MAIN", place / "none")
    with Server(place / "archive") as running:
        uri = f"http://127.0.0.1:{running.server_address[1]}"
        mirror = Mirror(uri, {"Signed-By": str(key.keyring)})
        monkeypatch.setattr(resolution, "debian_mirror", lambda _: mirror)
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
    key.close()


def fetch(cache):
    store = Store(cache)
    return Evaluation(store).entry(package_step(resolution.Archive(store), "hello", "trixie", "arm64"))


def owners(cache):
    return {path.lstat().st_uid for path in cache.rglob("*")}


def test_downloads_have_the_rights_of_apts_own_user(server, tmp_path):
    entry = fetch(tmp_path / "cache")
    assert (entry.path / "tree/usr/bin/hello").read_bytes() == b"x"
    assert server.seen == {WHO}
    assert owners(tmp_path / "cache") == {os.geteuid()}


def test_lists_are_kept_and_not_fetched_again(server, tmp_path):
    fetch(tmp_path / "cache")
    requests = []
    server.RequestHandlerClass = partial(Noting, requests, directory=server.RequestHandlerClass.keywords["directory"])
    store = Store(tmp_path / "cache")
    with resolution.apt_root(resolution.Archive(store), Wanted("hello", "trixie", "arm64"), HOST) as root:
        assert root.resolve("hello").version == "2.0"
        root.update()
    assert {(path.rpartition("/")[2], status) for path, status in requests} == {("InRelease", 304)}


class Noting(Handler):
    def __init__(self, requests, *args, **more):
        self.requests = requests
        super().__init__(*args, **more)

    def send_response(self, code, message=None):
        self.requests.append((self.path, int(code)))
        super().send_response(code, message)


def test_a_download_that_is_cut_off_leaves_nothing(server, tmp_path):
    server.cut = "hello"
    with pytest.raises(BuildError, match="could not be fetched"):
        fetch(tmp_path / "cache")
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    assert owners(tmp_path / "cache") == {os.geteuid()}
    assert not list(Path(tempfile.gettempdir()).glob(f"{aptplace.PREFIX}*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user for it")
@pytest.mark.parametrize("lack", ["user", "directory", "host"])
def test_root_downloads_itself_where_there_is_no_other_way_and_says_so(server, tmp_path, monkeypatch, capsys, lack):
    if lack == "user":
        monkeypatch.setattr(aptplace, "USER", "APT::No::Such::Setting")
    elif lack == "host":
        monkeypatch.setattr(aptplace, "_downloader", lambda _: None)
    else:
        monkeypatch.setattr(aptplace, "_bases", lambda: iter([tmp_path]))  # below a directory of root's alone
    fetch(tmp_path / "cache")
    assert server.seen == {"root"}
    assert "warning: apt downloads as root: its user" in capsys.readouterr().err


def test_a_closed_directory_for_temporary_files_is_passed_over(place, monkeypatch):
    closed = place / "closed" / "below"
    closed.mkdir(parents=True)
    assert aptplace._lets_all_in(closed)
    closed.parent.chmod(0o700)
    assert not aptplace._lets_all_in(closed)
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    with aptplace.apt_place(place, HOST) as chosen:
        assert (chosen.directory.is_relative_to(closed)) is False
        assert (chosen.user is None) == (os.geteuid() != 0)
