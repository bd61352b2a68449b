"""Who we are to a registry: what Docker's configuration says, helpers, users and tokens; and to whom that is told."""

import base64
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import bcrypt
import pytest
from faulty_proxy import Fault, Proxy
from oci_registry import registry
from releases import going_out, release, same_files

from guestforge.core.errors import BuildError, UserError
from guestforge.publish import credentials, patience
from guestforge.publish.address import find_place
from guestforge.publish.credentials import Credentials, find_credentials
from guestforge.publish.http import Client
from guestforge.publish.token import RegistryAuth

HOST = "registry.example:5000"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """Write Docker's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()

    def write(**value):
        (tmp_path / "docker" / "config.json").write_text(json.dumps(value))

    return write


def basic(user, secret):
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"auth": basic("me", "se:cret")}, Credentials("me", "se:cret")),
        ({"username": "me", "password": "secret"}, Credentials("me", "secret")),
        ({"auth": basic("me", ""), "identitytoken": "abc"}, Credentials("me", "", "abc")),
    ],
)
@pytest.mark.parametrize("name", [HOST, f"https://{HOST}", f"https://{HOST}/v1/"])
def test_a_user_that_is_written_there_is_found(config, name, entry, found):
    config(auths={name: entry, "other.example": {"auth": basic("not", "me")}})
    assert find_credentials(HOST) == found


def test_nobody_is_found_where_nothing_is(config):
    assert find_credentials(HOST) == Credentials()
    config(auths={"registry.example": {"auth": basic("not", "me")}})
    assert find_credentials(HOST) == Credentials()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ('{"auths": []}', "has no object as 'auths'"),
        (json.dumps({"auths": {HOST: {"auth": "!"}}}), "its auth is no base64"),
        (json.dumps({"auths": {HOST: {"auth": "YQ=="}}}), "no colon"),
        (json.dumps({"credsStore": "../evil"}), "names a credential helper that is none"),
        (json.dumps({"credsStore": "nowhere"}), "docker-credential-nowhere is not installed"),
    ],
)
def test_a_wrong_configuration_is_told_of(tmp_path, text, said):
    (tmp_path / "docker" / "config.json").write_text(text)
    with pytest.raises(UserError, match=said):
        find_credentials(HOST)


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Install a helper, a shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(script, name="test"):
        path = tmp_path / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return install


ANSWER = """read -r registry; echo a warning >&2
echo "{\\"ServerURL\\": \\"$registry\\", \\"Username\\": \\"$WHO\\", \\"Secret\\": \\"$1 $registry\\"}" """


@pytest.mark.parametrize("key", [{"credsStore": "test"}, {"credHelpers": {HOST: "test"}, "credsStore": "other"}])
def test_a_helper_is_asked(config, helper, monkeypatch, key):
    monkeypatch.setenv("WHO", "me")
    helper(ANSWER)
    config(**key)
    assert find_credentials(HOST) == Credentials("me", f"get {HOST}")
    monkeypatch.setenv("WHO", "<token>")
    assert find_credentials(HOST) == Credentials(identity=f"get {HOST}")


def test_a_helper_that_does_not_know_leaves_the_rest(config, helper):
    helper("echo credentials not found in native keychain; exit 1")
    config(credsStore="test", auths={HOST: {"auth": basic("me", "secret")}})
    assert find_credentials(HOST) == Credentials("me", "secret")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'locked \033[31m'; exit 3", r"ended with exit code 3: locked  \[31m"),
        ("echo hello", "is not JSON"),
        ("cat /dev/zero", "says more than"),
        ("sleep 60", "did not answer within"),
        ("exec >&- 2>&-; sleep 60", "did not answer within"),
    ],
)
def test_a_helper_that_fails_is_told_of_in_time(config, helper, monkeypatch, script, said):
    monkeypatch.setattr(credentials, "TIME", 1.0)
    helper(script)
    config(credsStore="test")
    start = time.monotonic()
    with pytest.raises(UserError, match=said):
        find_credentials(HOST)
    assert time.monotonic() - start < 15


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A registry that wants a user and a password."""
    directory = tmp_path_factory.mktemp("guarded")
    line = "me:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (directory / "htpasswd").write_text(line + "\n")
    more = f"auth: {{htpasswd: {{realm: test, path: {directory / 'htpasswd'}}}}}"
    with registry(directory / "registry", more) as port:
        yield port


def test_a_registry_that_wants_a_user_gets_him(tmp_path, config, guarded):
    config(auths={f"127.0.0.1:{guarded}": {"auth": basic("me", "secret")}})
    there = find_place(f"oci://127.0.0.1:{guarded}/guests:1", plain=False)
    made = release(tmp_path)
    assert there.publish(going_out(made))
    (tmp_path / "back").mkdir()
    there.fetch(tmp_path / "back")
    assert same_files(made, tmp_path / "back")


@pytest.mark.parametrize("auths", [{}, {"auth": basic("me", "wrong")}])
def test_credentials_that_are_refused_are_told_of(tmp_path, config, guarded, auths):
    config(auths={f"127.0.0.1:{guarded}": auths})
    with pytest.raises(UserError, match="401") as caught:
        find_place(f"oci://127.0.0.1:{guarded}/refused:1", plain=False).publish(going_out(release(tmp_path)))
    assert "docker login" in caught.value.report()


class _Tokens(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        length = int(self.headers.get("Content-Length", 0))
        query = urlsplit(self.path).query or self.rfile.read(length).decode()
        self.server.asked.append((self.command, self.headers.get("Authorization"), parse_qs(query)))
        data = self.server.answer
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET


@contextmanager
def tokens(answer=b'{"token": "t0ken"}', status=200):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Tokens) as server:
        server.asked, server.answer, server.status = [], answer, status
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def challenge(server):
    return f'Bearer realm="http://127.0.0.1:{server.server_address[1]}/token",service="it",scope="repository:a:pull"'


@pytest.mark.parametrize(
    ("known", "method", "header", "more"),
    [
        (Credentials(), "GET", None, {}),
        (Credentials("me", "secret"), "GET", f"Basic {basic('me', 'secret')}", {}),
        (Credentials(identity="idt"), "POST", None, {"refresh_token": ["idt"], "grant_type": ["refresh_token"]}),
    ],
)
def test_a_token_is_got_where_the_registry_says(known, method, header, more):
    with tokens() as server:
        auth = RegistryAuth("https://registry.example", "x", lambda: known, plain=False)
        assert auth.header("https://registry.example/v2/") is None
        assert auth.renew(challenge(server))
        assert auth.header("https://registry.example/v2/") == "Bearer t0ken"
        # and to nobody else
        for other in ("https://other.example/v2/", "http://registry.example/v2/", "https://registry.example:444/"):
            assert auth.header(other) is None
    ((asked_by, authorization, query),) = server.asked
    assert (asked_by, authorization) == (method, header)
    assert query.items() >= {"service": ["it"], "scope": ["repository:a:pull"], **more}.items()


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (b'{"errors": "no such user"}', 401, "refuses our credentials, with 401"),
        (b"<html>", 200, "is not JSON"),
        (b"{}", 200, "has no token"),
        (json.dumps({"token": "a\r\nX-Evil: 1"}).encode(), 200, "has no token"),
        (json.dumps({"token": "a" * 70_000}).encode(), 200, "a string of 70000 bytes"),
    ],
)
def test_a_token_that_is_none_is_told_of(answer, status, said):
    with tokens(answer, status) as server, pytest.raises(UserError, match=said):
        RegistryAuth("https://registry.example", "x", Credentials, plain=False).renew(challenge(server))


def test_a_place_for_tokens_that_others_can_hear_is_refused():
    auth = RegistryAuth("https://registry.example", "x", lambda: Credentials("me", "secret"), plain=False)
    with pytest.raises(UserError, match="can be read and changed"):
        auth.renew('Bearer realm="http://tokens.example/token",service="it"')


def test_a_token_goes_with_what_follows(tmp_path, guarded):
    with tokens() as server, Proxy(guarded) as proxy:
        headers = {"WWW-Authenticate": challenge(server)}
        proxy.faults.append(Fault("GET", "/v2/", "status", 401, headers=headers, times=2))
        with pytest.raises(UserError, match="401"):
            find_place(f"oci://127.0.0.1:{proxy.port}/a:1", plain=False).publish(going_out(release(tmp_path)))
    assert len(server.asked) == 1  # a token that was refused is not asked for again and again


def test_http_is_for_this_machine_or_on_request(monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    for url in ("http://registry.example/v2/", "http://127.0.0.1.example/", "ftp://localhost/"):
        with pytest.raises(UserError):
            Client("it", RegistryAuth(url, "", Credentials, plain=False)).ask("GET", url)
    for url in ("http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/"):
        with pytest.raises(BuildError, match=r"it: GET /: .*6 times"):
            Client("it", RegistryAuth(url, "", Credentials, plain=False)).ask("GET", url)
    with pytest.raises(BuildError, match="it: GET"):
        Client("it", RegistryAuth("http://x.invalid", "", Credentials, plain=True), plain=True).ask(
            "GET", "http://x.invalid/"
        )
