"""A small Debian archive on disk for the tests of guestforge/sources: real packages, really signed."""

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path


def tool(*argv: str | Path, input: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
    whole = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(env or {})}
    return subprocess.run(argv, check=True, capture_output=True, env=whole, input=input).stdout


class Key:
    """A signing key and its public half as a keyring file, beside its home, for apt's own user to read."""

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir(mode=0o700)
        self._gpg("--passphrase", "", "--quick-gen-key", f"{home.name}@test", "ed25519", "sign", "never")
        self.keyring = home.with_suffix(".gpg")
        self.keyring.write_bytes(self._gpg("--export"))

    def clearsign(self, text: str) -> bytes:
        return self._gpg("--clearsign", input=text.encode())

    def close(self) -> None:
        tool("gpgconf", "--homedir", str(self._home), "--kill", "all")

    def _gpg(self, *argv: str, input: bytes | None = None) -> bytes:
        return tool("gpg", "--batch", "--quiet", "--homedir", str(self._home), *argv, input=input)


class Archive:
    """An archive of one suite; `publish` signs what was added so far."""

    def __init__(self, root: Path, suite: str) -> None:
        self.root = root
        self.suite = suite
        self._records: dict[str, list[str]] = {}
        (root / "pool").mkdir(parents=True)

    @property
    def uri(self) -> str:
        return f"file:{self.root}"

    def add(self, work: Path, name: str, version: str, architecture: str, files: dict[str, bytes]) -> Path:
        """Build a package and list it (a package for all architectures: under amd64 and arm64)."""
        tree = work / f"{name}-{version}-{architecture}"
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
            (tree / path).chmod(0o755 if path.startswith("usr/bin/") else 0o644)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        control += "Maintainer: t <t@test>\nDescription: t\n"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(control)
        deb = self.root / "pool" / f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        env = {"SOURCE_DATE_EPOCH": "1700000000"}
        tool("dpkg-deb", "--build", "--root-owner-group", str(tree), str(deb), env=env)
        data = deb.read_bytes()
        facts = f"Filename: pool/{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        for listed in ("amd64", "arm64") if architecture == "all" else (architecture,):
            self._records.setdefault(listed, []).append(control + facts)
        return deb

    def forget(self, name: str) -> None:
        for records in self._records.values():
            records[:] = [record for record in records if not record.startswith(f"Package: {name}\n")]

    def publish(self, key: Key | None) -> None:
        """Write lists and InRelease; without a key an unsigned Release."""
        directory = self.root / "dists" / self.suite
        sums = ""
        for architecture in ("amd64", "arm64"):
            path = directory / "main" / f"binary-{architecture}" / "Packages"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(self._records.get(architecture, [])))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            sums += f" {digest} {path.stat().st_size} {path.relative_to(directory)}\n"
        release = (
            f"Origin: Debian\nSuite: {self.suite}\nCodename: {self.suite}\nDate: {formatdate(usegmt=True)}\n"
            f"Architectures: amd64 arm64\nComponents: main\nSHA256:\n{sums}"
        )
        for name in ("InRelease", "Release"):
            (directory / name).unlink(missing_ok=True)
        if key:
            (directory / "InRelease").write_bytes(key.clearsign(release))
        else:
            (directory / "Release").write_text(release)


def tarball(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    """Return a .tar.xz of files (name and content) and of whatever else a TarInfo is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=0) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info
