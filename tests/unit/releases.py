"""Releases of guests with small files: what `release` has packed, and one made wrong on purpose."""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import pytest
import zstandard

from guestforge.core.progress import Bar
from guestforge.core.store import FileFacts
from guestforge.manifest import MANIFEST, json_text
from guestforge.publish.place import outgoing
from guestforge.release.archive import Stored
from guestforge.release.bundle import make_bundle
from guestforge.release.contents import read_archive
from guestforge.release.errors import UnverifiedError
from guestforge.release.names import (
    CHECK_FILES,
    FILES_OF_A_GUEST,
    ROOTS,
    STATEMENT,
    SUFFIX,
    SUMS,
    archive_of,
    members,
    stem,
)
from guestforge.release.proven import Proven
from guestforge.release.provenance import Checkout
from guestforge.release.sign import Judge, Signer
from guestforge.release.sums import sums_text
from guestforge.release.verify import verify_release

VERSION = "1.2.3-rc.1+b.7"
ARCH, GUEST = "x86_64", "minimal"
ROOT = stem(GUEST, VERSION, ARCH)
ARCHIVE = ROOT + SUFFIX


def facts(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def contents(arch=ARCH, **changed):
    """The files of an archive by name, each consistent with the others; `changed` has other contents, by key."""
    files = {name: f"{name} ".encode() * 40 for name in FILES_OF_A_GUEST}
    files["rootfs.img"] = bytes(3 * 512) + b"disk" + bytes(5000)
    for name, artifact in CHECK_FILES.items():
        files[name] = name.encode()
        if name.endswith("report.json"):
            files[name] = json.dumps(report(files, artifact, arch)).encode()
    files |= changed
    files[MANIFEST] = json_text(manifest(files)).encode()
    return {name: files[name] for name in members()}


def report(files, artifact, arch=ARCH):
    booted = {name: facts(files[name])["sha256"] for name in ("kernel", ROOTS[artifact])}
    checks = [{"name": "kernel-up", "status": "pass", "seconds": 1.5}]
    head = {"schema": 1, "arch": arch, "guest": GUEST, "artifact": artifact, "digests": booted}
    return {**head, "verdict": "pass", "checks": checks}


MODULES = [
    {"path": "example.org/Some/module/v2", "version": "v2.0.1", "sum": f"h1:{'A' * 43}=", "licence": "MIT"},
    {"path": "flat", "version": "", "sum": None, "licence": None},
]
GCC = "x86_64-linux-gnu-gcc (Debian 12.2.0-14+deb12u1) 12.2.0"


def package(name, version, architecture):
    inputs = {"package": name, "version": version, "architecture": architecture}
    return {"key": "0" * 32, "inputs": {**inputs, **facts(name.encode())}}


def manifest(files, version=VERSION, arch=ARCH):
    return {
        "schema": 1, "guestforge": "0.1.0", "arch": arch, "guest": GUEST, "more": {"a": 1},
        "versions": {"kernel": "6.12.117", "compiler": GCC, "linker": "ld of some kind", "go": "1.26.6"},
        "steps": {
            "source linux-source-6.12": package("linux-source-6.12", "6.12.117-1", "all"),
            "package busybox": package("busybox", "1:1.35.0-4+b5", "amd64"),
            "image": {"key": "1" * 32, "inputs": {"e2fsprogs": "mke2fs 1.47.0 (5-Feb-2023)", "rootfs": {}}},
        },
        "artifacts": {name: facts(files[name]) for name in FILES_OF_A_GUEST},
        "release": {
            "built": {"started": "2026-11-26T10:00:00Z", "finished": "2026-11-26T10:30:00Z"},
            "version": version, "checks": {name: facts(files[name]) for name in CHECK_FILES},
            "agent": {"sha256": facts(b"agent")["sha256"], "given": False, "go": "1.26.6", "modules": MODULES},
            "recipe": {"kernel": {"fragments": ["a"], "more": 1.5}},
            "suites": {"source linux-source-6.12": "trixie", "package busybox": "bookworm"},
        },
    }  # fmt: skip


def stored(folder, files):
    """Files as the store has them, but for the manifest."""
    sources = {}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sources[name] = Stored(path, FileFacts(**facts(data)))
    return {**sources, MANIFEST: files[MANIFEST]} | {}


def proven(folder, version=VERSION, arch=ARCH, files=None):
    files = files or contents(arch)
    files[MANIFEST] = json_text(manifest(files, version, arch)).encode()
    sources = stored(folder, files)
    return Proven(arch, GUEST, version, {name: sources[name] for name in members()})


CHECKOUTS = (Checkout("guestforge", "0123456789" * 4, True), Checkout("project", None, None))


def release(tmp_path, name="release", key=None, epoch=0):
    """Make a release of one guest and return its directory."""
    place = tmp_path / name
    signer = Signer(key, epoch) if key else None
    assert make_bundle([proven(tmp_path / "store")], place, epoch, signer, CHECKOUTS)
    return place


def member(name, data=b"", **changes):
    """A member as ours, changed."""
    info = tarfile.TarInfo(name)
    info.mode, info.size = 0o644, len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


def tarred(files, root=ROOT):
    """The bytes of each member, in order."""
    return [member(f"{root}/{name}", data) for name, data in files.items()]


def packed(pieces, ending=None):
    plain = b"".join(pieces)
    end = bytes(1024 + -(len(plain) + 1024) % 10240) if ending is None else ending
    return zstandard.ZstdCompressor(level=1).compress(plain + end)


def read(data, name=ARCHIVE):
    """What is said of an archive: nothing, or its fault."""
    found = read_archive(io.BytesIO(data), name, Bar("test", None, "B"))
    assert found.facts == FileFacts(**facts(data))
    assert (found.manifest is None) == bool(found.fault)
    return found.fault


def verify(place, key=None):
    return verify_release(place, Judge(key))


def digests(place):
    """The SHA-256 of each file that sums name."""
    names = [path.name for path in place.iterdir() if not path.name.startswith(SUMS)]
    return {name: facts((place / name).read_bytes())["sha256"] for name in names}


def stated(place):
    """Have the provenance be of what is there."""
    if (place / STATEMENT).exists():
        said = json.loads((place / STATEMENT).read_text())
        found = [(name, digest) for name, digest in sorted(digests(place).items()) if archive_of(name)]
        said["subject"] = [{"name": name, "digest": {"sha256": digest}} for name, digest in found]
        (place / STATEMENT).write_text(json_text(said))


def summed(place):
    """Write provenance and sums that are right for what is there."""
    stated(place)
    (place / SUMS).write_bytes(sums_text(digests(place)))


def unverified(place, *said, key=None):
    """A release does not verify; each of these is in what is said of it."""
    with pytest.raises(UnverifiedError) as caught:
        verify(place, key)
    assert caught.value.exit_code == 3
    for text in said:
        assert text in caught.value.report()


def peak_kib():
    """The most memory that this program has had: getrusage(2) knows that of the one which started it as well."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1])


def release_of_two(tmp_path, name="release", version=VERSION, key=None, **changed):
    """Make a release of one guest for two architectures and return its directory."""
    guests = [
        proven(tmp_path / f"store-{name}-{arch}", version, arch, contents(arch, **changed))
        for arch in (ARCH, "aarch64")
    ]
    place = tmp_path / name
    assert make_bundle(guests, place, 0, Signer(key, 0) if key else None, CHECKOUTS)
    return place


def going_out(place):
    """A release's directory as it is published."""
    return outgoing(place, verify(place))


def same_files(one, other):
    """Whether two directories have the same files."""
    return {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }
