"""Signatures in minisign's format: ed25519 over a file's BLAKE2b-512. https://jedisct1.github.io/minisign/#signature-format

Keys and signatures are py-minisign's. What it leaves open is closed here: two texts of one signature, the comment that
nothing signs, the older kind of signature that holds the whole file in memory.
"""

import base64
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import minisign
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from guestforge.core.errors import UserError
from guestforge.core.files import open_regular, sync_directory
from guestforge.release.documents import Refused
from guestforge.release.names import SUMS

KEY: Final = "GUESTFORGE_RELEASE_KEY"  # the key itself
PASSWORD: Final = "GUESTFORGE_RELEASE_KEY_PASSWORD"  # noqa: S105 - a variable's name
MAX_KEY: Final = 4096  # bytes; minisign's have 270
COMMENT: Final = "signature from minisign secret key"  # minisign's own, which nothing signs: so it is always this one

# What scrypt takes to guess a password of a key of ours: 128 MiB and 2^17 rounds, the least that OWASP recommends.
# https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#scrypt
MEMORY_LIMIT: Final = 128 * 1024 * 1024
OPERATIONS_LIMIT: Final = 4 * 8 * 2**17

Ask = Callable[[str], str | None]  # from what to ask for to what a person typed, None where nobody is there


def key_name(key_id: bytes) -> str:
    """Return a key's number as minisign shows it."""
    return key_id[::-1].hex().upper()


# Secret keys


def load_secret_key(path: Path | None, ask: Ask) -> minisign.SecretKey | None:
    """Return the key of a file, else that of the environment, ready to sign; None where there is neither.

    Raises UserError for one that others may read, that is none, or to which the password is wrong or missing.
    """
    if path is None and not os.environ.get(KEY):
        return None
    shown = str(path) if path else KEY
    data = _private(path) if path else os.environ[KEY].strip().encode()
    try:
        parse = minisign.SecretKey.from_bytes if b"\n" in data.strip() else minisign.SecretKey.from_base64
        key = parse(data.strip())
        if key.is_encrypted():
            key.decrypt(_password(shown, ask))
    except minisign.ParseError as e:
        raise UserError(
            f"{shown} is no secret key of minisign: {e}", hint="`./invoke release.keygen FILE` makes one"
        ) from e
    except minisign.Error as e:
        raise UserError(f"{shown}: {e}", hint=f"{PASSWORD} is what it is opened with") from e
    return key


def _private(path: Path) -> bytes:
    """Return what a file holds that is for its owner's eyes alone."""
    try:
        file = open_regular(path)
        if file is None:
            raise UserError(f"--key {path}: this is no file, or a link to one")
        with file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UserError(f"--key {path}: others may read it (mode {mode:04o})", hint=f"chmod 600 {path}")
            data = file.read(MAX_KEY + 1)
    except OSError as e:
        raise UserError(f"--key {path}: {e.strerror}", hint="`./invoke release.keygen FILE` makes one") from e
    if len(data) > MAX_KEY:
        raise UserError(f"--key {path} has more than {MAX_KEY} bytes: it is no key")
    return data


def _password(shown: str, ask: Ask) -> str:
    password = os.environ.get(PASSWORD) or ask(f"password of {shown}: ")
    if not password:
        raise UserError(f"{shown} is encrypted, and there is no password", hint=f"set {PASSWORD}, or use a terminal")
    return password


def sign(key: minisign.SecretKey, data: bytes, epoch: int, name: str = SUMS) -> bytes:
    """Return a file that signs what the file `name` holds; the time in it is `epoch`, seconds since 1970.

    Raises UserError for a key that is damaged: one whose halves do not belong together.
    """
    comment = f"timestamp:{epoch}\tfile:{name}\thashed"
    signature = key.sign(data, untrusted_comment=COMMENT, trusted_comment=comment)
    try:
        key.get_public_key().verify(data, signature)
    except minisign.VerifyError as e:
        raise UserError("the secret key is damaged: what it signs does not verify") from e
    return bytes(signature) + b"\n"


def sign_plainly(key: minisign.SecretKey, data: bytes) -> tuple[str, bytes]:
    """Return how a key is called, and ed25519's signature of some bytes themselves, as others than minisign read it.

    What minisign signs with the same key are 64 bytes of BLAKE2b: nobody takes one for the other, for what is signed
    here says what it is (see `dsse`).
    """
    # two algorithms and a checksum's, salt and limits of scrypt, then the key's number, then the key, of which the
    # first half is RFC 8032's: https://jedisct1.github.io/minisign/#secret-key-format
    raw = base64.b64decode(bytes(key).split(b"\n")[1])
    return key_name(raw[54:62]), Ed25519PrivateKey.from_private_bytes(raw[62:94]).sign(data)


@dataclass(frozen=True, slots=True)
class Signer:
    """A secret key that signs at a time, in seconds since 1970."""

    key: minisign.SecretKey
    epoch: int

    def minisign(self, data: bytes, name: str) -> bytes:
        """Return the file that signs what the file `name` holds."""
        return sign(self.key, data, self.epoch, name)

    def plainly(self, data: bytes) -> tuple[str, bytes]:
        """Return how the key is called, and the signature of some bytes themselves."""
        return sign_plainly(self.key, data)


# Public keys


def load_public_key(path: Path) -> minisign.PublicKey:
    """Return the public key of a file, as minisign writes one; raises UserError for what is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY + 1).strip()
    except OSError as e:
        raise UserError(f"--public-key {path}: {e.strerror}") from e
    try:
        if len(data) > MAX_KEY:
            raise minisign.ParseError("it is too long")
        parse = minisign.PublicKey.from_bytes if b"\n" in data else minisign.PublicKey.from_base64
        return parse(data)
    except minisign.ParseError as e:
        raise UserError(f"--public-key {path} is no public key of minisign: {e}") from e


def read_signature(text: bytes) -> minisign.Signature:
    """Return the signature that a file holds; raises Refused for anything that we or minisign would not write."""
    try:
        signature = minisign.Signature.from_bytes(text)
    except ValueError as e:  # a comment that is no UTF-8 is one too
        raise Refused(f"it is no signature of minisign: {e}") from e
    if not signature.is_prehashed():
        raise Refused("it is of the older kind, without a hash before (minisign -l)")
    if signature.untrusted_comment != COMMENT or bytes(signature) + b"\n" != text:
        raise Refused("its text is not as minisign writes it")
    return signature


def check_signature(key: minisign.PublicKey, data: bytes, text: bytes, name: str = SUMS) -> str:
    """Return how the key is called that signed what the file `name` holds; raises Refused where that is not `key`."""
    signature = read_signature(text)
    mine, its = _number(bytes(key.to_base64())), _number(bytes(signature).split(b"\n")[1])
    if its != mine:
        raise Refused(f"it was signed with key {its}, and the public key is {mine}")
    try:
        key.verify(data, signature)
    except minisign.VerifyError as e:
        raise Refused(f"it does not sign this {name} with key {mine}") from e
    return mine


def check_plainly(key: minisign.PublicKey, data: bytes, name: str, signature: bytes) -> None:
    """Raise Refused unless `signature` is ed25519's of some bytes by `key`, which is called `name` there."""
    raw = base64.b64decode(key.to_base64())
    mine = key_name(raw[2:10])
    if name != mine:
        raise Refused(f"it was signed with key {name[:100]!a}, and the public key is {mine}")
    try:
        Ed25519PublicKey.from_public_bytes(raw[10:]).verify(signature, data)
    except InvalidSignature as e:
        raise Refused(f"it is not signed with key {mine}") from e


@dataclass(frozen=True, slots=True)
class Judge:
    """What is known of signatures: the key that must have made them, None where their form alone is looked at."""

    key: minisign.PublicKey | None = None

    @property
    def has_key(self) -> bool:
        """Whether there is a key."""
        return self.key is not None

    def minisign(self, data: bytes, text: bytes, name: str) -> str:
        """Return how the key is called that signed the file `name`, "" where that is not known; raises Refused."""
        if self.key:
            return check_signature(self.key, data, text, name)
        read_signature(text)
        return ""

    def plainly(self, data: bytes, name: str, signature: bytes) -> None:
        """Raise Refused unless the signature of some bytes themselves is the key's, where that is known."""
        if self.key:
            check_plainly(self.key, data, name, signature)


# Making keys


def make_key(path: Path, ask: Ask) -> str:
    """Write a new secret key, for its owner's eyes alone, and beside it the public one; return how they are called.

    The password is the environment's, else asked for, twice; an empty one leaves the key as it is. Raises UserError
    where there is a file already, or nobody to ask.
    """
    public = path.with_name(f"{path.name}.pub")
    for each in (path, public):
        if os.path.lexists(each):
            raise UserError(f"{each} is there already: a key is never overwritten", hint="name another file")
    password = _new_password(ask)
    pair = minisign.KeyPair.generate()
    name = _number(bytes(pair.public_key.to_base64()))
    pair.public_key.untrusted_comment = f"minisign public key {name}"
    if password:
        pair.secret_key.encrypt(password, opslimit=OPERATIONS_LIMIT, memlimit=MEMORY_LIMIT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(public, bytes(pair.public_key) + b"\n", 0o644)
        try:
            _write_new(path, bytes(pair.secret_key) + b"\n", 0o600)
        except BaseException:
            public.unlink(missing_ok=True)
            raise
    except OSError as e:
        raise UserError(f"{e.filename2 or e.filename}: {e.strerror}", hint="name another file") from e
    return name


def _new_password(ask: Ask) -> str:
    if (given := os.environ.get(PASSWORD)) is not None:
        return given
    first = ask("password of the new key (empty for none): ")
    if first is None:
        raise UserError(
            "there is no terminal to ask for a password",
            hint=f"set {PASSWORD}; set to nothing, it leaves the key unencrypted",
        )
    if first and ask("the same once more: ") != first:
        raise UserError("the two passwords differ")
    return first


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, and never in another's place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # which fails where there is something
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def _number(text: bytes) -> str:
    """Return what a public key or a signature, in base64, says of its key."""
    return key_name(base64.b64decode(text)[2:10])
