"""An OCI registry as a place for releases: an index under a tag, and all that it leads to."""

from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.core.progress import bar, say
from guestforge.oci.document import DIGEST, parse_document, part, word
from guestforge.publish.artifact import EMPTY, FILE, artifacts, digest_of, empty_config
from guestforge.publish.credentials import find_credentials
from guestforge.publish.download import download
from guestforge.publish.http import Client, is_loopback
from guestforge.publish.place import Release, opened, refused
from guestforge.publish.registry import Registry
from guestforge.publish.token import RegistryAuth
from guestforge.release.documents import MAX_FILE
from guestforge.release.names import NAME, SUMS
from guestforge.release.sums import LIMIT as MAX_SUMS
from guestforge.release.sums import read_sums
from guestforge.release.verify import MAX_FILES

MAX_WORD: Final = 1024


class OciTag:
    """A tag in a registry's repository."""

    def __init__(self, host: str, repository: str, tag: str, *, plain: bool) -> None:
        """`host` may have a port. http is spoken to this machine, or where it is asked for by `plain`."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        base = f"{'http' if plain or is_loopback(name.strip('[]')) else 'https'}://{host}"
        scope = f"repository:{repository}:pull,push"
        auth = RegistryAuth(base, scope, lambda: find_credentials(host), plain=plain)
        self._shown = f"oci://{host}/{repository}:{tag}"
        self._tag = tag
        self._client = Client(f"{host}/{repository}", auth, plain=plain)
        self._registry = Registry(self._client, base, repository)

    def publish(self, release: Release) -> bool:
        """Send blobs, then manifests, then what refers to them; the tag is the last, and before it nothing shows."""
        wanted = artifacts(release)
        if self._has(release, wanted.index.data):
            return False
        self._registry.send_small(EMPTY, str(empty_config()["digest"]))
        for name in release.files:
            self._send(release, name)
        for one in wanted.listed:
            self._registry.put(one, one.digest)
        self._registry.put(wanted.index, wanted.index.digest)
        for referrer in wanted.referrers:
            self._registry.refer(referrer, referrer.subject)
        if self._has(release, wanted.index.data):  # somebody else was quicker
            return False
        self._registry.put(wanted.index, self._tag)
        return True

    def _has(self, release: Release, index: bytes) -> bool:
        """Whether the tag is there; raises UserError where it is something else."""
        found = self._registry.manifest(self._tag)
        if found not in (None, index):
            raise refused(self._shown, release.version)
        return found is not None

    def _send(self, release: Release, name: str) -> None:
        facts = release.files[name]
        if self._registry.has_blob(digest_of(facts), facts.size):
            say(f"{name}: there already")
            return
        with opened(release.path(name)) as file, bar(f"publishing {name}", facts.size, "B") as shown:
            self._registry.send_blob(file, name, digest_of(facts), facts.size, shown)

    def fetch(self, into: Path) -> None:
        """Fetch what the index names: SHA256SUMS and its signatures, and by that all the rest.

        What else refers to the index, which anybody who may write there can have added, is not looked at.
        """
        first = self._named()
        for name, digest in first.items():
            self._fetch(into / name, digest, MAX_SUMS)
        try:
            digests = read_sums((into / SUMS).read_bytes())
        except ValueError as e:
            raise UserError(f"{self._shown}: {SUMS}: {e}") from e
        if len(digests) > MAX_FILES or digests.keys() & first.keys():
            raise UserError(f"{self._shown}: {SUMS} is none of a release")
        for name, digest in digests.items():
            self._fetch(into / name, digest, MAX_FILE)

    def _named(self) -> dict[str, str]:
        """Return the SHA-256 of the files that the index names itself."""
        data = self._registry.manifest(self._tag)
        if data is None:
            raise UserError(f"{self._shown} is not there")
        annotations = part(parse_document(data, self._shown), "annotations", self._shown)
        keys = [key for key in annotations if key.startswith(FILE)]
        found = {key.removeprefix(FILE): word(annotations, key, self._shown, MAX_WORD) for key in keys}
        if SUMS not in found or len(found) > MAX_FILES:
            raise UserError(f"{self._shown} is no release of guestforge: its index names no {SUMS}")
        for name, digest in found.items():
            if not NAME.fullmatch(name) or not DIGEST.fullmatch(digest):
                raise UserError(f"{self._shown}: its index names a file wrongly: {name[:100]!a}")
        return {name: digest.partition(":")[2] for name, digest in found.items()}

    def _fetch(self, path: Path, sha256: str, limit: int) -> None:
        download(self._client, self._registry.blob_url(f"sha256:{sha256}"), path, sha256=sha256, limit=limit)
