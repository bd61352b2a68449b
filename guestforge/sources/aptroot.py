"""A private apt root: apt itself, with lists, state and cache of our own.

It takes the host's mirror, keys, proxies and TLS settings, verifies signatures as apt always does, needs no root, and
leaves the host's own apt alone. One root serves one suite and one Debian architecture, which need not be the host's.
"""

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge import __version__
from guestforge.core.errors import BuildError, GuestforgeError, UserError
from guestforge.core.files import digest_file, open_regular
from guestforge.core.run import Completed, failure
from guestforge.core.runtime import Runtime
from guestforge.project.lock import LOCK, MAX_SIZE
from guestforge.sources import aptconf
from guestforge.sources.aptplace import Place
from guestforge.sources.hostapt import Mirror

OnBytes = Callable[[int], None]
NEWEST: Final = (
    f"take the newest: --refresh, and no `version` in the recipe; with a {LOCK}: ./invoke lock. Or name a mirror that "
    "keeps old versions: --mirror"
)

# What apt says, and what would help. The first that is in its output counts.
REMEDIES: Final = (
    ("NO_PUBKEY", "install a debian-archive-keyring that knows this suite (the newest in the host's release does)"),
    ("is not signed", "the mirror serves no signed release there: choose another with --mirror"),
    ("does not have a Release file", "the mirror has no such suite: look at `suite` in the recipe, or at --mirror"),
    ("404  Not Found", "the mirror has no such suite or file: look at `suite` in the recipe, or at --mirror"),
    ("No space left on device", "free some space, or set GUESTFORGE_CACHE to a larger disk"),
    ("Could not resolve", "the mirror can't be reached: look at the network, the proxy settings or --mirror"),
    ("Could not connect", "the mirror can't be reached: look at the network, the proxy settings or --mirror"),
    ("Temporary failure resolving", "the mirror can't be reached: look at the network, the proxy settings or --mirror"),
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """One version of a package, as the signed lists of its suite describe it. `size` is in bytes."""

    package: str
    version: str
    architecture: str
    sha256: str
    size: int


class AptRoot:
    """An apt root in a place. Not for two processes at once: hold a store's workspace."""

    def __init__(self, place: Place, suite: str, architecture: str, mirror: Mirror, runtime: Runtime) -> None:
        self.directory = place.directory
        self.suite = suite
        self.architecture = architecture
        self._user = place.user
        self._runtime = runtime
        as_root = os.geteuid() == 0 and place.user is None
        self._env = {"APT_CONFIG": str(aptconf.write(place.directory, suite, architecture, mirror, as_root=as_root))}

    def update(self) -> None:
        """Fetch the suite's lists, where they have changed. Raises BuildError with a remedy."""
        argv = [
            "apt-get",
            "update",
            "-q",
            "--error-on=any",
            "-o",
            f"Acquire::http::User-Agent=guestforge/{__version__}",
        ]
        self._apt(argv, f"the lists of suite {self.suite} could not be fetched")

    def resolve(self, package: str, version: str | None = None) -> Resolved:
        """Return the suite's newest version of a package, or the one asked for, from the lists that are there.

        Raises UserError for a package or version that the suite does not have, with what it has instead.
        """
        found = self._find(package, version)
        if found is None:
            raise self._unknown(package, version)
        return found

    def download(self, wanted: Resolved, target: Path, on_bytes: OnBytes) -> Path:
        """Fetch a package into the directory `target`, and verify it once more against its recorded SHA-256.

        `on_bytes` is called with how many bytes have come since the last call. Raises UserError for a version that
        the suite no longer has, BuildError for everything that the network or the mirror does wrong.
        """
        if self._find(wanted.package, wanted.version) != wanted:  # no lists yet, or old ones
            self._update_for(wanted)
        meter = _Meter(wanted.size, on_bytes)
        with tempfile.TemporaryDirectory(dir=self.directory) as place:
            if self._user is not None:
                os.chown(place, self._user, -1)
            try:
                self._fetch(wanted, Path(place), meter)
            except BuildError:
                self._update_for(wanted)  # the mirror may have dropped the version since the lists were fetched
                self._fetch(wanted, Path(place), meter)
            deb = _taken(Path(place), target, wanted)
            meter.to(wanted.size)
            return deb

    def _update_for(self, wanted: Resolved) -> None:
        self.update()
        found = self._find(wanted.package, wanted.version)
        if found is not None and found != wanted:
            raise UserError(
                f"{wanted.package} {wanted.version} in suite {self.suite} for {self.architecture} is another file than "
                f"the recorded one: it has SHA-256 {found.sha256}, recorded is {wanted.sha256}",
                hint="an archive never changes a version's file: look at --mirror, and at who changed the record",
            )
        if found is None:
            raise self._unknown(wanted.package, wanted.version)

    def _fetch(self, wanted: Resolved, place: Path, meter: "_Meter") -> None:
        argv = ["apt-get", "download", "-q", "-o", "APT::Status-Fd=1", f"{wanted.package}={wanted.version}"]
        self._apt(argv, f"{wanted.package} {wanted.version} could not be fetched", place, meter.line)

    def _find(self, package: str, version: str | None) -> Resolved | None:
        name = f"{package}={version}" if version else package
        argv = ["apt-cache", "show", "--no-all-versions", name]
        done = self._runtime.run(argv, env=self._env, check=False)
        return parse_record(done.output, package) if done.returncode == 0 else None

    def _unknown(self, package: str, version: str | None) -> UserError:
        where = f"suite {self.suite} for {self.architecture}"
        if version and (newest := self._find(package, None)):
            return UserError(
                f"{package} {version} is not in {where}, which has {newest.version}",
                hint=NEWEST,
            )
        names = self._runtime.run(["apt-cache", "pkgnames", package[:4]], env=self._env, check=False).output.split()
        near = difflib.get_close_matches(package, names, n=3)
        return UserError(f"{where} has no package {package}", hint=f"nearest: {', '.join(near)}" if near else None)

    def _apt(
        self, argv: list[str], what: str, cwd: Path | None = None, on_line: Callable[[str], None] | None = None
    ) -> None:
        done = self._runtime.run(argv, env=self._env, cwd=cwd or self.directory, on_line=on_line, check=False)
        if done.returncode != 0:
            raise apt_failure(done, what)


def apt_failure(done: Completed, what: str) -> GuestforgeError:
    """Return the error for an apt that failed: its own error lines, and what would help."""
    remedy = next((remedy for text, remedy in REMEDIES if text in done.output), failure(done).hint)
    lines = [line for line in done.output.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    return BuildError(what, excerpt="\n".join(lines[:20]) or done.output[-2000:], hint=remedy)


def parse_record(text: str, package: str) -> Resolved | None:
    """Parse the first record of `apt-cache show`; None if it is not one of `package` with all that we need."""
    fields = dict(
        line.split(": ", 1) for line in text.split("\n\n", 1)[0].splitlines() if re.match(r"[A-Z]\S*: ", line)
    )
    sha256, size = fields.get("SHA256", ""), fields.get("Size", "")
    known = (
        fields.get("Package") == package and re.fullmatch("[0-9a-f]{64}", sha256) and re.fullmatch(r"\d{1,12}", size)
    )
    if not known or not 0 < int(size) <= MAX_SIZE or not {"Version", "Architecture"} <= fields.keys():
        return None
    return Resolved(package, fields["Version"], fields["Architecture"], sha256, int(size))


def _taken(directory: Path, target: Path, wanted: Resolved) -> Path:
    """Copy the one package of a directory to where nobody else can change it, and verify it there."""
    files = list(directory.glob("*.deb"))
    if len(files) != 1:
        raise BuildError(f"apt-get download left {len(files)} packages instead of {wanted.package}")
    deb = target / f"{wanted.package}.deb"
    downloaded = open_regular(files[0])
    if downloaded is None:
        raise BuildError(f"apt-get download left {files[0].name}, which is no file")
    with downloaded, deb.open("wb") as file:
        shutil.copyfileobj(downloaded, file)
    found = digest_file(deb)
    if found != wanted.sha256:
        raise BuildError(f"{wanted.package} {wanted.version} has SHA-256 {found}, not {wanted.sha256} as recorded")
    return deb


class _Meter:
    """Turns apt's progress lines (`dlstatus:1:47.8255:...`, per cent) into bytes."""

    def __init__(self, size: int, on_bytes: OnBytes) -> None:
        self._size, self._on_bytes, self._seen = size, on_bytes, 0

    def line(self, text: str) -> None:
        if match := re.match(r"dlstatus:\d+:(\d+(?:\.\d+)?):", text):
            self.to(int(min(float(match[1]), 100.0) / 100 * self._size))

    def to(self, count: int) -> None:
        if count > self._seen:
            self._on_bytes(count - self._seen)
            self._seen = count
