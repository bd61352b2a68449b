"""Provenance: what others read and verify, true to the archives, and a commit that is really that of a checkout."""

import base64
import json
import random
import subprocess

import pytest
from releases import (
    ARCH,
    ARCHIVE,
    CHECKOUTS,
    GUEST,
    MODULES,
    ROOT,
    VERSION,
    contents,
    digests,
    facts,
    manifest,
    proven,
    release,
    summed,
    unverified,
    verify,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from guestforge.core.runtime import HOST
from guestforge.manifest import json_text
from guestforge.project import layout
from guestforge.release import checkouts as module
from guestforge.release.bundle import make_bundle
from guestforge.release.checkouts import find_checkouts
from guestforge.release.documents import Refused, read_manifest
from guestforge.release.dsse import TYPE, envelope, opened
from guestforge.release.names import CYCLONEDX, ENVELOPE, MINISIG, SIGNATURE, SPDX, STATEMENT, SUFFIX, SUMS
from guestforge.release.provenance import BUILD_TYPE, statement
from guestforge.release.sign import Judge, Signer, check_plainly, key_name, load_public_key, load_secret_key, make_key
from guestforge.release.sums import sums_text


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A secret key and its public one."""
    path = tmp_path_factory.mktemp("keys") / "release.key"
    make_key(path, lambda _: "")
    return load_secret_key(path, lambda _: None), load_public_key(path.with_name("release.key.pub")), path


@pytest.fixture
def signed(tmp_path, pair):
    """A release that is signed."""
    return release(tmp_path, key=pair[0])


def said(place):
    if (place / STATEMENT).exists():
        return json.loads((place / STATEMENT).read_text())
    return json.loads(base64.b64decode(json.loads((place / ENVELOPE).read_text())["payload"]))


def theirs(public, name=None):
    """The key as another library has it."""
    raw = base64.b64decode(public.to_base64())
    return SSlibKey(name or key_name(raw[2:10]), "ed25519", "ed25519", {"public": raw[10:].hex()})


# What is written


def test_a_release_without_a_key_states_where_it_comes_from_unsigned(tmp_path):
    place = release(tmp_path)
    assert {path.name for path in place.iterdir()} == {ARCHIVE, ROOT + CYCLONEDX, ROOT + SPDX, STATEMENT, SUMS}


def test_the_statement_says_what_slsa_wants(tmp_path):
    place = release(tmp_path)
    found = said(place)
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {row["name"]: row["digest"]["sha256"] for row in found["subject"]}
    assert subjects == {name: row for name, row in digests(place).items() if name != STATEMENT}
    definition = found["predicate"]["buildDefinition"]
    assert definition["buildType"] == BUILD_TYPE
    assert definition["externalParameters"]["version"] == VERSION
    assert definition["externalParameters"]["guests"] == [GUEST]
    assert definition["externalParameters"]["architectures"] == [ARCH]
    assert definition["externalParameters"]["recipes"][GUEST]["kernel"]["fragments"] == ["a"]
    assert definition["internalParameters"]["steps"][ROOT]["image"] == "1" * 32
    assert found["predicate"]["runDetails"]["builder"]["id"].startswith("https://")


def test_it_says_when_the_guests_were_built(tmp_path):
    """From the first step of all to the last one; not where that is not known of one."""
    details = said(release(tmp_path))["predicate"]["runDetails"]
    assert details["metadata"] == {"startedOn": "2026-11-26T10:00:00Z", "finishedOn": "2026-11-26T10:30:00Z"}
    later = {"started": "2026-11-26T10:10:00Z", "finished": "2026-11-26T11:00:00Z"}
    manifests = {}
    for name, built in (("a", None), ("b", later)):
        found = manifest(contents())
        found["release"]["built"] = built or found["release"]["built"]
        manifests[name + SUFFIX] = read_manifest(json.dumps(found).encode())
    digests = dict.fromkeys(manifests, "0" * 64)
    both = json.loads(statement(manifests, digests, CHECKOUTS))["predicate"]["runDetails"]["metadata"]
    assert both == {"startedOn": "2026-11-26T10:00:00Z", "finishedOn": "2026-11-26T11:00:00Z"}
    found["release"]["built"] = None
    manifests["b" + SUFFIX] = read_manifest(json.dumps(found).encode())
    assert "metadata" not in json.loads(statement(manifests, digests, CHECKOUTS))["predicate"]["runDetails"]


@pytest.mark.parametrize("time", ["", "now", "2026-11-26 10:00:00Z", "2026-11-26T10:00:00+01:00", 1, None])
def test_a_time_in_another_form_is_refused(time):
    found = manifest(contents())
    found["release"]["built"]["started"] = time
    with pytest.raises(Refused, match="started"):
        read_manifest(json.dumps(found).encode())


def test_dependencies_are_what_was_fetched_with_their_digests(tmp_path):
    rows = said(release(tmp_path))["predicate"]["buildDefinition"]["resolvedDependencies"]
    commit = {"name": "guestforge", "digest": {"gitCommit": CHECKOUTS[0].commit}, "annotations": {"clean": True}}
    source = facts(b"linux-source-6.12")["sha256"]
    assert rows == [
        commit,
        {
            "uri": "pkg:deb/debian/busybox@1:1.35.0-4%2Bb5?arch=amd64&distro=bookworm",
            "digest": {"sha256": facts(b"busybox")["sha256"]},
        },
        {"uri": "pkg:deb/debian/linux-source-6.12@6.12.117-1?arch=all&distro=trixie", "digest": {"sha256": source}},
        {"uri": "pkg:golang/example.org/Some/module/v2@v2.0.1", "digest": {"dirHash": "00" * 32}},
    ]
    assert MODULES[0]["sum"] == f"h1:{base64.b64encode(bytes(32)).decode()}"


def test_a_folder_that_is_not_under_git_is_said_to_be_so(tmp_path):
    definition = said(release(tmp_path))["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["checkouts"] == [
        {"name": "guestforge", "commit": CHECKOUTS[0].commit, "clean": True},
        {"name": "project", "commit": None, "clean": None},
    ]


# Others read it


def test_minisign_verifies_it(signed, pair):
    argv = ["minisign", "-V", "-p", f"{pair[2]}.pub", "-m", signed / ENVELOPE]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"file:{ENVELOPE}\thashed" in done.stdout
    (signed / ENVELOPE).write_bytes((signed / ENVELOPE).read_bytes() + b"\n")
    assert subprocess.run(argv, capture_output=True).returncode != 0


def test_another_library_verifies_the_envelope(signed, pair):
    found = Envelope.from_dict(json.loads((signed / ENVELOPE).read_text()))
    assert found.payload_type == "application/vnd.in-toto+json"
    assert json.loads(found.payload) == said(signed)
    assert len(found.verify([theirs(pair[1])], 1)) == 1
    found.payload += b" "
    with pytest.raises(VerificationError):
        found.verify([theirs(pair[1])], 1)


# Judged


def test_a_signed_release_verifies(signed, pair):
    assert verify(signed, pair[1]).signed_by
    assert verify(signed).signed_by == ""


def test_a_flipped_bit_anywhere_in_a_signed_release_is_seen_and_its_file_named(signed, pair):
    paths = sorted(signed.iterdir())
    assert {path.name for path in paths} == {
        ARCHIVE, ROOT + CYCLONEDX, ROOT + SPDX, ENVELOPE, ENVELOPE + MINISIG, SUMS, SIGNATURE,
    }  # fmt: skip
    places = [(path, at) for path in paths for at in random.sample(range(path.stat().st_size), 30)]
    for path, at in places:
        before = path.read_bytes()
        data = bytearray(before)
        data[at] ^= 1 << random.randrange(8)
        path.write_bytes(data)
        unverified(signed, SIGNATURE if path.name == SUMS else path.name, key=pair[1])
        path.write_bytes(before)
    verify(signed, pair[1])


def changed(place, change):
    found = said(place)
    change(found)
    (place / STATEMENT).write_text(json_text(found))
    (place / SUMS).write_bytes(sums_text(digests(place)))


def definition(found):
    return found["predicate"]["buildDefinition"]


def steps(found):
    return definition(found)["internalParameters"]["steps"][ROOT]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"), "_type is"),
        (lambda d: d.update(predicateType="https://slsa.dev/provenance/v0.2"), "predicateType is"),
        (lambda d: definition(d).update(buildType="https://guestforge.dev/release/v2"), "buildType is"),
        (lambda d: d["subject"].pop(), "subject is"),
        (lambda d: d["subject"].append(d["subject"][0]), "subject is"),
        (lambda d: d["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}}), "subject is"),
        (lambda d: d["subject"][0]["digest"].update(sha256="0" * 64), "subject is"),
        (lambda d: definition(d)["externalParameters"].update(version="9.0.0"), "externalParameters.version is"),
        (lambda d: definition(d)["externalParameters"].update(more=1), "externalParameters.more is"),
        (lambda d: definition(d)["externalParameters"]["recipes"][GUEST].pop("kernel"), "recipes.minimal.kernel is"),
        (lambda d: steps(d).update(image="2" * 32), "image is"),
        (lambda d: definition(d)["resolvedDependencies"].pop(), "resolvedDependencies is"),
        (lambda d: definition(d)["resolvedDependencies"].pop(0), "resolvedDependencies is"),
        (lambda d: definition(d)["internalParameters"]["checkouts"][0].update(clean=False), "resolvedDependencies is"),
        (lambda d: definition(d)["internalParameters"]["checkouts"][0].update(more=1), "checkouts is"),
        (lambda d: definition(d)["internalParameters"].pop("checkouts"), "internalParameters.checkouts"),
        (lambda d: d["predicate"]["runDetails"]["builder"].update(id="https://example.org"), "builder.id is"),
        (lambda d: d["predicate"]["runDetails"]["metadata"].update(startedOn="2026-11-26T10:00:01Z"), "startedOn is"),
        (lambda d: d["predicate"]["runDetails"].pop("metadata"), "metadata is missing"),
        (lambda d: d["predicate"].update(more="\x1b[2J"), r"predicate.more is"),
        (lambda d: d.pop("predicate"), "predicate"),
    ],
)
def test_a_statement_that_is_not_true_to_the_archives_is_refused(tmp_path, change, where):
    place = release(tmp_path)
    changed(place, change)
    unverified(place, "1 file of it", f"{STATEMENT}: ", where)


def test_a_statement_in_another_form_is_refused(tmp_path):
    place = release(tmp_path)
    (place / STATEMENT).write_text(json.dumps(said(place)))
    (place / SUMS).write_bytes(sums_text(digests(place)))
    unverified(place, f"{STATEMENT}: its text is not as we write it")


def test_what_is_signed_has_an_envelope_and_what_is_not_has_none(tmp_path, signed):
    place = release(tmp_path / "other")
    (place / STATEMENT).rename(place / ENVELOPE)
    summed(place)
    unverified(place, f"{STATEMENT}: missing: every release that is not signed", f"{ENVELOPE}: a release that is not")
    (signed / SIGNATURE).unlink()
    unverified(signed, f"{ENVELOPE}: a release that is not signed has none", f"{STATEMENT}: missing")
    for name in (ENVELOPE, ENVELOPE + MINISIG):
        (signed / name).unlink()
    (signed / SIGNATURE).touch()
    summed(signed)
    unverified(signed, f"{ENVELOPE}: missing: every release that is signed", f"{ENVELOPE}{MINISIG}: missing")


def test_an_envelope_of_another_key_is_named_with_the_right_key_alone(tmp_path, signed, pair):
    make_key(tmp_path / "other", lambda _: "")
    other = Signer(load_secret_key(tmp_path / "other", lambda _: None), 0)
    data = envelope(json_text(said(signed)).encode(), other.plainly)
    (signed / ENVELOPE).write_bytes(data)
    (signed / (ENVELOPE + MINISIG)).write_bytes(other.minisign(data, ENVELOPE))
    sums = sums_text(digests(signed))
    (signed / SUMS).write_bytes(sums)
    (signed / SIGNATURE).write_bytes(Signer(pair[0], 0).minisign(sums, SUMS))
    unverified(signed, "2 files", f"{ENVELOPE}: it was signed with key", f"{ENVELOPE}{MINISIG}: it was", key=pair[1])
    verify(signed)


def enveloped(**changes):
    value = {"payload": "e30=", "payloadType": TYPE, "signatures": [{"keyid": "A", "sig": "A" * 86 + "=="}]}
    return json.dumps({**value, **changes}).encode() + b"\n"


def test_an_envelope_of_ours_is_opened():
    assert opened(enveloped(), None) == b"{}"


SIGNATURES = json.loads(enveloped())["signatures"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", enveloped() + b"\n", enveloped()[:-1], b" " + enveloped(), enveloped(more=1),
        enveloped(payloadType="text/plain"), enveloped(payload="e30"), enveloped(payload="e31="),
        enveloped(payload="e 30="), enveloped(payload=1), enveloped(signatures=[]),
        enveloped(signatures=SIGNATURES * 2),
        enveloped(signatures=[{"keyid": "A"}]), enveloped(signatures=[{"sig": "A" * 86 + "=="}]),
        enveloped(signatures=[{"keyid": "A", "sig": "A" * 84}]),
        enveloped(signatures=[{"keyid": "A", "sig": "\u00e4"}]),
        enveloped(signatures=[{"keyid": "\x1b", "sig": "A" * 86 + "=="}]),
    ],
)  # fmt: skip
def test_an_envelope_that_we_would_not_write_is_refused(data):
    with pytest.raises(Refused):
        opened(data, None)


def test_a_wrong_signature_is_refused(pair):
    name, signature = Signer(pair[0], 0).plainly(b"data")
    check_plainly(pair[1], b"data", name, signature)
    Judge().plainly(b"other", "any", signature)
    for data, wrong in ((b"other", signature), (b"data", bytes(64)), (b"data", signature[:-1])):
        with pytest.raises(Refused, match="not signed with key"):
            check_plainly(pair[1], data, name, wrong)
    with pytest.raises(Refused, match="signed with key 'x'"):
        check_plainly(pair[1], b"data", "x", signature)


def test_two_guests_of_a_release_are_one_statement(tmp_path):
    one, two = proven(tmp_path / "one"), proven(tmp_path / "two", arch="s390x")
    assert make_bundle([one, two], tmp_path / "release", 0, None, CHECKOUTS)
    parameters = definition(said(tmp_path / "release"))["externalParameters"]
    assert parameters["architectures"] == ["s390x", "x86_64"]
    assert len(said(tmp_path / "release")["subject"]) == 6


# Checkouts


def git(folder, *words):
    argv = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout in the place of ours."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a").write_text("a")
    git(folder, "add", "a")
    git(folder, "commit", "-qm", "a")
    monkeypatch.setattr(module, "CHECKOUT", folder)
    return folder


def test_a_clean_checkout(checkout):
    (found,) = find_checkouts(checkout, HOST)
    assert (found.name, found.commit, found.clean) == ("guestforge", git(checkout, "rev-parse", "HEAD"), True)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_checkout_with_changes_is_said_to_have_them(checkout, name):
    (checkout / name).write_text("changed, or new")
    (found,) = find_checkouts(checkout, HOST)
    assert (found.commit, found.clean) == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.usefixtures("checkout")
def test_a_project_elsewhere_has_a_commit_of_its_own(tmp_path):
    (tmp_path / "mine").mkdir()
    one, two = find_checkouts(tmp_path / "mine", HOST)
    assert (one.name, one.clean) == ("guestforge", True)
    assert (two.name, two.commit, two.clean) == ("project", None, None)
    git(tmp_path / "mine", "init", "-q")
    assert find_checkouts(tmp_path / "mine", HOST)[1].commit is None, "it has no commit yet"


def test_an_unpacked_copy_in_another_s_checkout_is_none(checkout, monkeypatch):
    (checkout / "copy").mkdir()
    monkeypatch.setattr(module, "CHECKOUT", checkout / "copy")
    (found,) = find_checkouts(checkout / "copy", HOST)
    assert found.commit is None


def test_without_git_there_is_no_commit(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = find_checkouts(checkout, HOST)
    assert (found.commit, found.clean) == (None, None)


def test_ours_is_the_folder_of_this_checkout():
    assert layout.CHECKOUT == module.CHECKOUT
