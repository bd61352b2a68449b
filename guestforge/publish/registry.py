"""A repository of an OCI registry. https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md"""

import contextlib
import re
from typing import IO, Final
from urllib.parse import urlencode, urljoin, urlsplit

from guestforge.core.errors import BuildError, GuestforgeError, UserError
from guestforge.core.progress import Bar
from guestforge.oci.document import parse_document
from guestforge.publish.artifact import INDEX, MANIFEST, Descriptor, Document, document
from guestforge.publish.body import Body
from guestforge.publish.http import AGAIN, Answer, Client, NetworkError
from guestforge.publish.patience import Patience, asked_pause

ACCEPT: Final = {"Accept": f"{INDEX}, {MANIFEST}"}
OCTETS: Final = {"Content-Type": "application/octet-stream"}
MAX_REFERRERS: Final = 4096
_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


class Registry:
    """One repository, asked by a client."""

    def __init__(self, client: Client, base: str, repository: str) -> None:
        """`base` is the registry's URL, without a path."""
        self._client = client
        self._root = f"{base}/v2/{repository}/"

    # manifests

    def manifest(self, reference: str) -> bytes | None:
        """Return the manifest or index of a tag or digest; None where there is none."""
        answer = self._client.ask("GET", self._url("manifests", reference), headers=ACCEPT)
        if answer.status == 404:
            return None
        self._require(answer, 200, f"get {reference}")
        return answer.data

    def put(self, sent: Document, reference: str) -> Answer:
        """Send a manifest or index under a tag or its digest."""
        kind = {"Content-Type": str(sent.descriptor["mediaType"])}
        answer = self._client.ask("PUT", self._url("manifests", reference), headers=kind, data=sent.data)
        self._require(answer, 201, f"put {reference}")
        said = answer.headers.get("Docker-Content-Digest", sent.digest)
        if said != sent.digest:
            raise BuildError(f"{self._client.title} has taken {sent.digest} and calls it {said[:100]!a}")
        return answer

    def refer(self, referrer: Document, subject: str) -> None:
        """Send a manifest that refers to another, so that whoever asks for those that do is told of it.

        A registry that does not answer with OCI-Subject keeps no such list: it is an index under a tag then, which
        whoever sends a referrer has to keep. Two that do so at once may lose one, as the specification says.
        """
        answer = self.put(referrer, referrer.digest)
        if answer.headers.get("OCI-Subject"):
            return
        tag = subject.replace(":", "-")
        listed = self._listed(tag)
        if not any(each.get("digest") == referrer.digest for each in listed):
            new = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*listed, referrer.descriptor]}
            self.put(document(new), tag)

    def _listed(self, tag: str) -> list[Descriptor]:
        data = self.manifest(tag)
        if data is None:
            return []
        what = f"{tag} in {self._client.title}"
        found = parse_document(data, what).get("manifests")
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise UserError(f"{what} is no list of referrers")
        if len(found) > MAX_REFERRERS:
            raise UserError(f"{what} has {len(found)} referrers; {MAX_REFERRERS} are taken")
        return found

    # blobs

    def blob_url(self, digest: str) -> str:
        """Return where a blob is."""
        return self._url("blobs", digest)

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether a blob is there; raises BuildError where it is there with another size."""
        answer = self._client.ask("HEAD", self.blob_url(digest))
        if answer.status == 404:
            return False
        self._require(answer, 200, f"ask for {digest}")
        length = answer.headers.get("Content-Length", str(size))
        if length != str(size):
            raise BuildError(f"{self._client.title} says that {digest} has {length[:20]} bytes; it has {size}")
        return True

    def send_blob(self, file: IO[bytes], name: str, digest: str, size: int, shown: Bar) -> None:
        """Send a file as a blob: again after a cut, from where the registry says it has come to."""
        patience = Patience(f"{self._client.title}: {name}")
        upload, place = "", 0
        while True:
            try:
                if not upload:
                    upload, place = self._begin(), 0
                answer = self._send(upload, Body(file, place, size, shown), place, size)
                upload = self._next(answer, upload)
                answer = self._finish(upload, digest)
            except NetworkError as e:
                patience.wait(str(e))
            except _Retry as e:
                patience.wait(e.why, e.asked)
            else:
                self._require(answer, 201, f"take {name}")
                return
            if self.has_blob(digest, size):  # it may be the answer alone that was lost
                return
            before, (upload, place) = place, self._resumed(upload, size)
            if place > before:
                patience.progressed()

    def send_small(self, data: bytes, digest: str) -> None:
        """Send a few bytes as a blob."""
        patience = Patience(f"{self._client.title}: {digest}")
        while not self.has_blob(digest, len(data)):
            try:
                url = self._with(self._begin(), {"digest": digest})
                self._require(self._judged(self._client.once("PUT", url, headers=OCTETS, data=data)), 201, "take")
            except NetworkError as e:
                patience.wait(str(e))
            except _Retry as e:
                patience.wait(e.why, e.asked)

    def _begin(self) -> str:
        answer = self._client.ask("POST", self._url("blobs", "uploads/"))
        self._require(answer, 202, "begin an upload")
        return self._next(answer, self._root)

    def _send(self, upload: str, body: Body, place: int, size: int) -> Answer:
        if not len(body):
            return Answer(202, {"Location": upload}, b"")
        part = {"Content-Range": f"{place}-{size - 1}"}
        answer = self._judged(self._client.once("PATCH", upload, headers={**OCTETS, **part}, data=body))
        if answer.status in (404, 416):
            raise _Retry(answer.line(), None)
        self._require(answer, 202, "take a part of an upload")
        return answer

    def _finish(self, upload: str, digest: str) -> Answer:
        answer = self._judged(self._client.once("PUT", self._with(upload, {"digest": digest}), headers=OCTETS))
        if answer.status in (400, 404, 416):  # what has come is not the blob: a part was lost
            raise _Retry(answer.line(), None)
        return answer

    def _resumed(self, upload: str, size: int) -> tuple[str, int]:
        """Return an upload and how many bytes of it have come, of an upload that was cut; nothing where it is lost."""
        with contextlib.suppress(GuestforgeError):
            answer = self._client.ask("GET", upload) if upload else None
            if answer and answer.status == 204 and (found := _RANGE.fullmatch(answer.headers.get("Range", ""))):
                come = int(found[1]) + 1
                if 1 < come <= size:  # 0-0 is what is said of nothing too
                    return self._next(answer, upload), come
        return "", 0

    def _judged(self, answer: Answer) -> Answer:
        if answer.status in AGAIN:
            raise _Retry(answer.line(), asked_pause(answer.headers))
        return answer

    def _next(self, answer: Answer, before: str) -> str:
        """Return where an upload goes on."""
        url = urljoin(before, answer.headers.get("Location", before))
        self._client.require_allowed(url)
        return url

    @staticmethod
    def _with(url: str, more: dict[str, str]) -> str:
        return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(more)}"

    def _url(self, kind: str, reference: str) -> str:
        return f"{self._root}{kind}/{reference}"

    def _require(self, answer: Answer, status: int, what: str) -> None:
        """Raise UserError unless an answer has a status, or one that says the same."""
        if answer.status == status:
            return
        title = self._client.title
        if answer.status in (401, 403):
            hint = "`docker login` writes credentials to Docker's config.json, which is read here"
            raise UserError(f"{title} refuses to {what}: {answer.status} {answer.said()}".rstrip(), hint=hint)
        raise UserError(f"{title} does not {what}: {answer.line()}")


class _Retry(Exception):
    """An answer that asks to come again, in so many seconds where it says so."""

    def __init__(self, why: str, asked: float | None) -> None:
        super().__init__(why)
        self.why = why
        self.asked = asked
