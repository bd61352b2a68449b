"""GitHub's API of releases, and what it answers, bounded and each value of its type."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from guestforge.core.errors import BuildError, UserError
from guestforge.core.progress import bar
from guestforge.core.store import FileFacts
from guestforge.publish.body import Body
from guestforge.publish.download import download
from guestforge.publish.http import AGAIN, Answer, Client, NetworkError, Origin, origin
from guestforge.publish.patience import Patience, asked_pause
from guestforge.publish.place import opened
from guestforge.release.documents import first_fault

TOKEN: Final = "GITHUB_TOKEN"  # noqa: S105 - a variable's name
URL: Final = "GITHUB_API_URL"  # which GitHub's Actions set too
DEFAULT_URL: Final = "https://api.github.com"
HEADERS: Final = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
OCTETS: Final = {"Content-Type": "application/octet-stream"}
PAGE: Final = 100  # entries of a list at once, the most that GitHub gives
MAX_PAGES: Final = 100
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


class _Value(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Published(_Value):
    """A release, which may be a draft yet."""

    id: int = Field(ge=0)
    tag: str = Field(alias="tag_name", max_length=1000)
    draft: bool = False
    upload_url: str = Field(max_length=4000)


class Asset(_Value):
    """A file of a release. GitHub may have changed its name; we send the right one as its label too."""

    id: int = Field(ge=0)
    name: str = Field(max_length=1000)
    label: str | None = Field(default=None, max_length=1000)
    size: int = Field(ge=0)
    state: str = Field(default="", max_length=100)
    digest: str | None = Field(default=None, max_length=200)

    @property
    def title(self) -> str:
        """The name that it was sent with."""
        return self.label or self.name

    @property
    def whole(self) -> bool:
        """Whether all of it has come."""
        return self.state == "uploaded"

    @property
    def sha256(self) -> str:
        """Its SHA-256, empty where GitHub does not tell it."""
        found = _DIGEST.fullmatch(self.digest or "")
        return found[1] if found else ""


class _Token:
    """The token of the environment, for GitHub's own origins alone."""

    def __init__(self) -> None:
        self.token = os.environ.get(TOKEN, "").strip()
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise UserError(f"{TOKEN} is no token: there is something else than letters in it")
        self.origins: set[Origin] = set()

    def header(self, url: str) -> str | None:
        """Return what goes into Authorization for an URL."""
        return f"Bearer {self.token}" if self.token and origin(url) in self.origins else None

    def renew(self, _: str) -> bool:
        """Return False: there is no other token."""
        return False


class Github:
    """The releases of one repository, `owner/name`."""

    def __init__(self, repository: str) -> None:
        url = (os.environ.get(URL) or DEFAULT_URL).rstrip("/")
        self._auth = _Token()
        self._client = Client(f"github:{repository}", self._auth)
        self._trust(url)
        self._root = f"{url}/repos/{repository}/releases"
        self._title = f"github:{repository}"

    def _trust(self, url: str) -> None:
        """Have the token be told to where an URL is; raises UserError for one that we do not speak to."""
        self._client.require_allowed(url)
        self._auth.origins.add(origin(url))

    def require_token(self) -> None:
        """Raise UserError where there is no token."""
        if not self._auth.token:
            hint = f"{TOKEN} holds one that may write the contents of the repository"
            raise UserError(f"{self._title}: to publish takes a token", hint=hint)

    def find(self, tag: str) -> Published | None:
        """Return the release of a tag, drafts included: the published one where there are both."""
        found = [each for each in self._pages(self._root, Published) if each.tag == tag]
        return min(found, key=lambda each: each.draft, default=None)

    def published(self, tag: str) -> Published | None:
        """Return the published release of a tag, the latest where that is empty."""
        url = f"{self._root}/tags/{quote(tag, safe='')}" if tag else f"{self._root}/latest"
        answer = self._ask("GET", url)
        if answer.status == 404:
            return None
        return self._release(self._required(answer, 200, f"get a release {tag}".strip()))

    def draft(self, tag: str, *, prerelease: bool) -> Published:
        """Make a draft, or find it where the answer alone was lost."""
        value = {"tag_name": tag, "name": tag, "draft": True, "prerelease": prerelease}
        patience = Patience(f"{self._title}: a draft of {tag}")
        while True:
            try:
                answer = self._once("POST", self._root, value)
            except NetworkError as e:
                patience.wait(str(e))
            else:
                if not _comes_again(answer):
                    return self._release(self._required(answer, 201, f"make a draft of {tag}"))
                patience.wait(answer.line(), asked_pause(answer.headers))
            if found := self.find(tag):
                return found

    def publish(self, release: Published) -> None:
        """Have a draft be seen by all."""
        self._required(self._ask("PATCH", f"{self._root}/{release.id}", {"draft": False}), 200, "publish a draft")

    def assets(self, release: Published) -> list[Asset]:
        """Return the assets of a release."""
        return list(self._pages(f"{self._root}/{release.id}/assets", Asset))

    def remove(self, asset: Asset) -> None:
        """Remove an asset; one that is not there is removed."""
        answer = self._ask("DELETE", f"{self._root}/assets/{asset.id}")
        if answer.status != 404:
            self._required(answer, 204, f"remove {asset.name!a}")

    def upload(self, release: Published, path: Path, name: str, facts: FileFacts) -> None:
        """Upload a file; what a try that was cut left of it is removed before the next."""
        url = release.upload_url.partition("{")[0]
        self._trust(url)
        url = f"{url}?{urlencode({'name': name, 'label': name})}"
        patience = Patience(f"{self._title}: {name}")
        with opened(path) as file, bar(f"publishing {name}", facts.size, "B") as shown:
            while True:
                body = Body(file, 0, facts.size, shown) if facts.size else b""
                try:
                    answer = self._client.once("POST", url, headers={**HEADERS, **OCTETS}, data=body)
                except NetworkError as e:
                    patience.wait(str(e))
                else:
                    if not _comes_again(answer) and answer.status != 422:  # 422: one of that name is there
                        self._required(answer, 201, f"take {name}")
                        return
                    patience.wait(answer.line(), asked_pause(answer.headers))
                if self._left(release, name, facts):
                    return

    def _left(self, release: Published, name: str, facts: FileFacts) -> bool:
        """Whether a file is there after a try that failed; what else has its name is removed."""
        for asset in self.assets(release):
            if name in (asset.title, asset.name):
                if asset.whole and (asset.size, asset.sha256) == (facts.size, facts.sha256):
                    return True
                self.remove(asset)
        return False

    def download(self, asset: Asset, path: Path, limit: int) -> None:
        """Write an asset into a new file, compared with its digest where GitHub tells one."""
        headers = {**HEADERS, "Accept": "application/octet-stream"}
        download(
            self._client, f"{self._root}/assets/{asset.id}", path, sha256=asset.sha256, limit=limit, headers=headers
        )

    def _pages(self, url: str, kind: type[Any]) -> Iterator[Any]:
        for number in range(1, MAX_PAGES + 1):
            answer = self._ask("GET", f"{url}?{urlencode({'per_page': PAGE, 'page': number})}")
            listed = self._parsed(list[kind], self._required(answer, 200, "list releases"))  # type: ignore[valid-type]
            yield from listed
            if len(listed) < PAGE:
                return
        raise UserError(f"{self._title} has more than {PAGE * MAX_PAGES} entries where releases or assets are listed")

    def _ask(self, method: str, url: str, value: Mapping[str, Any] | None = None) -> Answer:
        data = json.dumps(value).encode() if value is not None else None
        return self._client.ask(method, url, headers=HEADERS, data=data, again=_comes_again)

    def _once(self, method: str, url: str, value: Mapping[str, Any]) -> Answer:
        return self._client.once(method, url, headers=HEADERS, data=json.dumps(value).encode())

    def _required(self, answer: Answer, status: int, what: str) -> Answer:
        if answer.status == status:
            return answer
        hint = None
        if answer.status in (401, 403, 404):
            hint = f"{TOKEN} must hold a token that may write the contents of the repository"
        raise UserError(f"{self._title} does not {what}: {answer.line()}", hint=hint)

    def _release(self, answer: Answer) -> Published:
        found: Published = self._parsed(Published, answer)
        return found

    def _parsed(self, kind: Any, answer: Answer) -> Any:  # noqa: ANN401 - of the type that is given
        try:
            return TypeAdapter(kind).validate_json(answer.data)
        except ValidationError as e:
            raise BuildError(f"{self._title} answers what is no release: {first_fault(e)}") from e


def _comes_again(answer: Answer) -> bool:
    """Whether an answer asks to come again: a limit of GitHub's is a 403 as well as a 429."""
    limited = answer.status == 403 and asked_pause(answer.headers) is not None
    return limited or answer.status in AGAIN
