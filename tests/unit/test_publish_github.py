"""Releases on GitHub: a server that speaks its endpoints, and a proxy that fails before it."""

import os

import pytest
from faulty_proxy import USUAL, Fault, Proxy
from github_server import ROOT, TOKEN, Hub
from releases import VERSION, going_out, release, release_of_two, same_files

from guestforge.core.errors import BuildError, GuestforgeError, UserError
from guestforge.publish import http, patience
from guestforge.publish.address import find_place


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(http, "SILENCE", 0.5)
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    with Hub() as found:
        monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{found.port}")
        yield found


@pytest.fixture
def proxy(hub, monkeypatch):
    with Proxy(hub.port) as found:
        monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{found.port}")
        hub.elsewhere = found.port
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return release_of_two(tmp_path_factory.mktemp("made"), **{"System.map": os.urandom(300_000)})


def place(tag=""):
    return find_place(f"github:owner/guests{tag}", plain=False)


def contents_of(made):
    return {path.name: path.read_bytes() for path in made.iterdir()}


def fetched(tmp_path, tag=f"@{VERSION}"):
    (tmp_path / "fetched").mkdir()
    place(tag).fetch(tmp_path / "fetched")
    return tmp_path / "fetched"


def test_a_release_comes_back_as_it_was(tmp_path, hub, made, monkeypatch):
    assert place().publish(going_out(made))
    assert hub.published() == {VERSION: contents_of(made)}
    assert [one["prerelease"] for one in hub.releases.values()] == [True]
    assert not place().publish(going_out(made))
    monkeypatch.delenv("GITHUB_TOKEN")  # whoever fetches needs none
    assert same_files(made, fetched(tmp_path))


@pytest.mark.usefixtures("hub")
def test_the_latest_is_fetched_where_none_is_named(tmp_path):
    made = release_of_two(tmp_path, version="1.0.0")
    place().publish(going_out(made))
    place().publish(going_out(release_of_two(tmp_path, "next", version="1.1.0-rc.1")))
    assert same_files(made, fetched(tmp_path, ""))


def test_the_token_goes_to_github_alone(tmp_path, hub, made):
    place().publish(going_out(made))
    with Proxy(hub.port) as storage:
        hub.elsewhere = storage.port
        fetched(tmp_path)
    assert hub.storage_saw == [None] * len(contents_of(made))


def test_other_content_under_a_version_is_refused(tmp_path, hub, made):
    place().publish(going_out(made))
    with pytest.raises(UserError, match="with other content"):
        place().publish(going_out(release_of_two(tmp_path, "other")))
    assert hub.published() == {VERSION: contents_of(made)}


@pytest.mark.parametrize("tells", [True, False])
def test_a_published_file_that_was_changed_is_seen(hub, made, tells):
    hub.tells_digests = tells
    if not tells:
        with pytest.raises(BuildError, match="does not stay as it was"):
            place().publish(going_out(made))  # nobody can know whether it came over right
        assert hub.published() == {}
        next(iter(hub.releases.values()))["draft"] = False
    else:
        place().publish(going_out(made))
    assert not place().publish(going_out(made))
    asset = next(iter(next(iter(hub.releases.values()))["assets"].values()))
    asset["data"] = bytes([asset["data"][0] ^ 1]) + asset["data"][1:]
    if tells:
        asset["digest"] = "sha256:" + "0" * 64
    with pytest.raises(UserError, match="with other content"):
        place().publish(going_out(made))


def test_a_draft_is_gone_on_with(hub, proxy, made):
    proxy.faults.append(Fault("PATCH", ROOT, "status", 403, times=10_000))
    with pytest.raises(UserError, match="does not publish a draft: it answers 403"):
        place().publish(going_out(made))
    assert hub.published() == {}
    (draft,) = hub.releases.values()
    first, second, third, *_ = list(draft["assets"].values())
    first["state"] = "starter"
    second["digest"] = "sha256:" + "0" * 64
    draft["assets"][999] = {**third, "id": 999, "name": "stranger", "label": "stranger"}
    proxy.faults.clear()
    proxy.seen.clear()
    assert place().publish(going_out(made))
    assert len(proxy.sent("POST", "/uploads/")) == 2
    assert hub.published() == {VERSION: contents_of(made)}


PUBLISHING = {
    "releases": ("GET", f"{ROOT}\\?"),
    "draft": ("POST", f"^{ROOT}$"),
    "assets": ("GET", "/assets\\?"),
    "upload": ("POST", "/uploads/"),
    "published": ("PATCH", ROOT),
}
FAULTS = {
    **USUAL,
    "limit": {"kind": "status", "at": 403, "headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0"}},
}


@pytest.mark.parametrize("where", PUBLISHING)
@pytest.mark.parametrize(
    "fault", [fault if fault == "limit" else pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS]
)
def test_what_fails_once_is_done_again(hub, proxy, made, monkeypatch, where, fault):
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    proxy.faults.append(Fault(*PUBLISHING[where], **FAULTS[fault]))
    assert place().publish(going_out(made))
    assert proxy.faults[0].met == 1
    assert hub.published() == {VERSION: contents_of(made)}
    assert len(hub.releases) == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", PUBLISHING)
@pytest.mark.parametrize("fault", ["cut", "garbage", "429"])
def test_what_fails_always_is_a_clear_error_and_nothing_shows(hub, proxy, made, where, fault):
    proxy.faults.append(Fault(*PUBLISHING[where], **FAULTS[fault], times=10_000))
    if fault == "cut":
        proxy.faults[0].at = 10
    with pytest.raises(GuestforgeError, match="github:owner/guests"):
        place().publish(going_out(made))
    assert hub.published() == {}
    proxy.faults.clear()
    assert place().publish(going_out(made))


def test_a_limit_of_an_hour_is_not_waited_for(proxy, made):
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999"}
    proxy.faults.append(Fault("POST", f"^{ROOT}$", "status", 403, headers=headers))
    with pytest.raises(BuildError, match="403") as caught:
        place().publish(going_out(made))
    assert "it asks to wait" in caught.value.report()


FETCHING = {
    "cut": {"kind": "cut answer", "at": 100_000},
    "stall": {"kind": "stall"},
    "garbage": {"kind": "garbage"},
    "500": {"kind": "status", "at": 500},
    "changed": {"kind": "flip"},
    "too short": {"kind": "length", "at": -10},
}


@pytest.mark.parametrize("fault", FETCHING)
def test_what_fails_once_is_fetched_again(tmp_path, proxy, made, fault):
    place().publish(going_out(made))
    proxy.faults.append(Fault("GET", "/storage/", **FETCHING[fault]))
    assert same_files(made, fetched(tmp_path))
    assert proxy.faults[0].met == 1


def test_what_is_no_release_is_told_of(tmp_path, proxy):
    proxy.faults.append(Fault("GET", "/tags/", "flip", times=10_000))
    place().publish(going_out(release(tmp_path)))
    with pytest.raises(BuildError, match="answers what is no release"):
        fetched(tmp_path)


def test_names_that_lead_elsewhere_are_refused(tmp_path, hub, made):
    place().publish(going_out(made))
    next(iter(next(iter(hub.releases.values()))["assets"].values()))["label"] = "../x"
    with pytest.raises(UserError, match="no name of a release's file"):
        fetched(tmp_path)
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("hub")
def test_a_token_is_wanted_and_a_wrong_one_refused(made, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "wrong")
    with pytest.raises(UserError, match="Bad credentials") as caught:
        place().publish(going_out(made))
    assert "GITHUB_TOKEN" in caught.value.report()
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(UserError, match="to publish takes a token"):
        place().publish(going_out(made))


@pytest.mark.usefixtures("hub")
def test_a_release_that_is_not_there_is_told_of(tmp_path):
    with pytest.raises(UserError, match=r"has no release 1\.2\.3"):
        fetched(tmp_path)
