"""Signatures and keys in minisign's format: Debian's minisign reads ours, and we read its."""

import base64
import os
import subprocess

import minisign
import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import release, unverified, verify

from guestforge.core.errors import UserError
from guestforge.release.documents import Refused
from guestforge.release.names import SIGNATURE, SUMS
from guestforge.release.sign import (
    COMMENT,
    KEY,
    PASSWORD,
    check_signature,
    load_public_key,
    load_secret_key,
    make_key,
    read_signature,
    sign,
)  # fmt: skip

DATA = b"what is signed\n"
SECRET = "correct horse"


def nobody(_):
    """A terminal that is not there."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (KEY, PASSWORD):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A key of ours without a password, and its public half."""
    path = tmp_path_factory.mktemp("keys") / "release.key"
    make_key(path, lambda _: "")
    return path, load_public_key(path.with_name("release.key.pub"))


@pytest.fixture(scope="module")
def text(pair):
    return sign(load_secret_key(pair[0], nobody), DATA, 7)


def program(*words, **more):
    return subprocess.run(["minisign", *map(str, words)], capture_output=True, text=True, **more)


def test_minisign_verifies_what_we_sign(tmp_path, pair):
    key = load_secret_key(pair[0], nobody)
    place = release(tmp_path, key=key, epoch=7)
    argv = ("-V", "-p", f"{pair[0]}.pub", "-m", place / SUMS)
    done = program(*argv)
    assert done.returncode == 0
    assert f"Trusted comment: timestamp:7\tfile:{SUMS}\thashed" in done.stdout
    (place / SUMS).write_bytes((place / SUMS).read_bytes() + b"x")
    assert program(*argv).returncode != 0


@pytest.mark.parametrize("password", ["", SECRET])
def test_minisign_signs_with_our_key(tmp_path, password):
    make_key(tmp_path / "key", lambda _: password)
    (tmp_path / "data").write_bytes(DATA)
    done = program("-S", "-s", tmp_path / "key", "-m", tmp_path / "data", input=f"{password}\n")
    assert done.returncode == 0, done.stderr
    key = load_public_key(tmp_path / "key.pub")
    assert check_signature(key, DATA, (tmp_path / "data.minisig").read_bytes()) in (tmp_path / "key.pub").read_text()


@pytest.mark.slow  # minisign's keys take 1 GiB and seconds to open
@pytest.mark.parametrize("password", ["", SECRET])
def test_we_sign_with_minisign_s_key(tmp_path, monkeypatch, password):
    files = ("-p", tmp_path / "key.pub", "-s", tmp_path / "key")
    made = program("-G", *files, *([] if password else ["-W"]), input=f"{password}\n{password}\n")
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv(PASSWORD, password)
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "data.minisig").write_bytes(sign(load_secret_key(tmp_path / "key", nobody), DATA, 0))
    assert program("-V", "-p", tmp_path / "key.pub", "-m", tmp_path / "data").returncode == 0
    assert check_signature(load_public_key(tmp_path / "key.pub"), DATA, (tmp_path / "data.minisig").read_bytes())


def test_a_new_key_is_its_owner_s_alone_and_never_takes_another_s_place(tmp_path):
    make_key(tmp_path / "new" / "key", lambda _: "")
    assert (tmp_path / "new" / "key").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "new" / "key.pub").stat().st_mode & 0o7777 == 0o644
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"key", "key.pub"}
    for name in ("key", "key.pub"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match="is there already"):
            make_key(tmp_path / "key", lambda _: "")
        (tmp_path / name).unlink()
        assert list(tmp_path.iterdir()) == [tmp_path / "new"]


def test_a_key_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    linked = os.link

    def link(source, target):
        if str(target).endswith("key"):
            raise FileExistsError(17, "File exists", str(target))
        linked(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UserError, match="File exists"):
        make_key(tmp_path / "key", lambda _: "")
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_asked_for_twice_or_the_environment_s(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no terminal"):
        make_key(tmp_path / "key", nobody)
    answers = iter(["one", "two"])
    with pytest.raises(UserError, match="differ"):
        make_key(tmp_path / "key", lambda _: next(answers))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(PASSWORD, SECRET)
    make_key(tmp_path / "key", nobody)
    assert minisign.SecretKey.from_file(tmp_path / "key").is_encrypted()
    monkeypatch.setenv(PASSWORD, "")
    make_key(tmp_path / "plain", nobody)
    assert not minisign.SecretKey.from_file(tmp_path / "plain").is_encrypted()


def test_a_key_with_a_password_opens_with_that_one_alone(tmp_path, monkeypatch):
    make_key(tmp_path / "key", lambda _: SECRET)
    with pytest.raises(UserError, match="is encrypted, and there is no password"):
        load_secret_key(tmp_path / "key", nobody)
    with pytest.raises(UserError, match="wrong password"):
        load_secret_key(tmp_path / "key", lambda _: "another")
    assert load_secret_key(tmp_path / "key", lambda _: SECRET)
    monkeypatch.setenv(PASSWORD, SECRET)
    assert load_secret_key(tmp_path / "key", nobody)


def test_a_key_in_the_environment(pair, monkeypatch):
    assert load_secret_key(None, nobody) is None
    whole = pair[0].read_text()
    for form in (whole, whole.splitlines()[1]):
        monkeypatch.setenv(KEY, form)
        assert check_signature(pair[1], DATA, sign(load_secret_key(None, nobody), DATA, 0))
    monkeypatch.setenv(KEY, "nonsense")
    with pytest.raises(UserError, match=f"{KEY} is no secret key"):
        load_secret_key(None, nobody)
    assert load_secret_key(pair[0], nobody), "a file goes before the environment"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_get_to_is_refused(tmp_path, pair, mode):
    key = tmp_path / "key"
    key.write_bytes(pair[0].read_bytes())
    key.chmod(mode)
    with pytest.raises(UserError, match=f"others may read it .mode {mode:04o}") as caught:
        load_secret_key(key, nobody)
    assert caught.value.hint == f"chmod 600 {key}"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _path, _key: None, "No such file"),
        (lambda path, _key: path.mkdir(), "this is no file"),
        (lambda path, key: path.symlink_to(key), "or a link to one"),
        (lambda path, _key: path.write_bytes(bytes(5000)), "more than 4096 bytes"),
        (lambda path, _key: path.write_bytes(b""), "is no secret key"),
        (lambda path, key: path.write_bytes(key.with_name("release.key.pub").read_bytes()), "is no secret key"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path, pair, make, said):
    path = tmp_path / "key"
    make(path, pair[0])
    if path.is_file() and not path.is_symlink():
        path.chmod(0o600)
    with pytest.raises(UserError, match=said):
        load_secret_key(path, nobody)


def test_a_damaged_key_signs_nothing(tmp_path, pair):
    head, body = pair[0].read_bytes().splitlines()
    raw = bytearray(base64.b64decode(body))
    raw[70] ^= 1  # of its secret half
    (tmp_path / "key").write_bytes(head + b"\n" + base64.b64encode(raw) + b"\n")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(UserError, match="damaged"):
        sign(load_secret_key(tmp_path / "key", nobody), DATA, 0)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_no_public_key(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("key") / "key.pub"
    path.write_bytes(data)
    with pytest.raises(UserError, match="no public key"):
        load_public_key(path)


def test_what_is_no_public_key_is_refused(tmp_path, pair):
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (pair[0], "no public key")):
        with pytest.raises(UserError, match=said):
            load_public_key(path)


def test_any_other_bit_of_a_signature_is_seen(pair, text):
    assert check_signature(pair[1], DATA, text)
    for at in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[at] ^= 1 << bit
            with pytest.raises(Refused):
                check_signature(pair[1], DATA, bytes(changed))


def test_another_text_of_the_same_signature_is_refused(text):
    lines = text.split(b"\n")
    for other in (
        text + b"\n", text[:-1], text.replace(b"\n", b"\r\n"), b" " + text, text.replace(COMMENT.encode(), b"hello"),
        b"\n".join([*lines[:3], lines[3].replace(b"=", b""), b""]),
    ):  # fmt: skip
        with pytest.raises(Refused):
            read_signature(other)


def test_the_older_kind_of_signature_is_refused(tmp_path, pair):
    (tmp_path / "data").write_bytes(DATA)
    assert program("-S", "-l", "-s", pair[0], "-m", tmp_path / "data").returncode == 0
    with pytest.raises(Refused, match="older kind"):
        check_signature(pair[1], DATA, (tmp_path / "data.minisig").read_bytes())


@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_bytes_are_no_signature(data):
    with pytest.raises(Refused):
        read_signature(data)


def test_a_signed_release_verifies_with_its_key_alone(tmp_path, pair, text):
    key = load_secret_key(pair[0], nobody)
    place = release(tmp_path, key=key)

    found = verify(place, pair[1])
    assert found.signed_by in (pair[0].with_name("release.key.pub")).read_text()
    assert not any("sign" in line for line in found.unchecked)
    assert verify(place).unchecked[0].startswith("its signature: no --public-key")
    make_key(tmp_path / "other", lambda _: "")
    other = load_public_key(tmp_path / "other.pub")
    unverified(place, f"{SIGNATURE}: it was signed with key", key=other)
    signature = (place / SIGNATURE).read_bytes()
    (place / SIGNATURE).write_bytes(text)
    unverified(place, f"{SIGNATURE}: it does not sign this {SUMS}", key=pair[1])
    (place / SIGNATURE).write_bytes(b"x")
    unverified(place, f"{SIGNATURE}: it is no signature")
    (place / SIGNATURE).unlink()
    unverified(place, f"{SIGNATURE}: missing", key=pair[1])
    (place / SIGNATURE).write_bytes(signature)
    sums = (place / SUMS).read_bytes()
    (place / SUMS).write_bytes(sums.replace(sums[:1], b"0" if sums[:1] != b"0" else b"1", 1))
    unverified(place, f"{SIGNATURE}: it does not sign", "its SHA-256 is not", key=pair[1])
