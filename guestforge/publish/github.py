"""A repository's releases on GitHub as a place: a draft, its assets, and then it is published.

https://docs.github.com/en/rest/releases. A draft is seen by those alone who may write to the repository.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import semver

from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import digest_file
from guestforge.core.progress import say
from guestforge.core.scratch import scratch_directory
from guestforge.core.store import FileFacts
from guestforge.publish.github_api import Asset, Github, Published
from guestforge.publish.place import Release, refused
from guestforge.release.documents import MAX_FILE
from guestforge.release.names import NAME
from guestforge.release.verify import MAX_FILES

ROUNDS: Final = 3  # how often what a draft holds is looked at and mended, before it is published


class GithubReleases:
    """The releases of a repository; `tag` is the one to be fetched, the latest where it is empty."""

    def __init__(self, owner: str, name: str, tag: str) -> None:
        self._shown = f"github:{owner}/{name}"
        self._github = Github(f"{owner}/{name}")
        self._tag = tag

    def publish(self, release: Release) -> bool:
        """Fill a draft, going on with one that is there, and publish it. The tag is the version."""
        if self._tag:
            raise UserError(f"{self._shown}@{self._tag}: a release is published under its own version")
        self._github.require_token()
        found = self._github.find(release.version)
        if found and not found.draft:
            self._require_same(found, release)
            return False
        prerelease = bool(semver.Version.parse(release.version).prerelease)
        draft = found or self._github.draft(release.version, prerelease=prerelease)
        for _ in range(ROUNDS):
            if not self._mended(draft, release):
                self._github.publish(draft)
                return True
        raise BuildError(f"{self._shown}: what was uploaded of {release.version} does not stay as it was")

    def _mended(self, draft: Published, release: Release) -> bool:
        """Remove from a draft what is wrong, and upload what is missing; return whether anything was."""
        there = self._github.assets(draft)
        good = [asset for asset in there if _is(asset, release.files)]
        kept = {asset.title: asset for asset in good}
        wrong = [asset for asset in there if kept.get(asset.title) is not asset]
        for asset in wrong:
            say(f"{asset.title!a}: removed from the draft, for it is not the release's")
            self._github.remove(asset)
        missing = [name for name in release.files if name not in kept]
        for name in missing:
            self._github.upload(draft, release.path(name), name, release.files[name])
        for name in kept:
            say(f"{name}: there already")
        return bool(wrong or missing)

    def _require_same(self, found: Published, release: Release) -> None:
        """Raise UserError unless a published release is this one. Digests that GitHub does not tell are computed."""
        assets = self._github.assets(found)
        names = sorted(asset.title for asset in assets)
        sizes = {asset.title: asset.size for asset in assets}
        if names != sorted(release.files) or any(sizes[name] != release.files[name].size for name in names):
            raise refused(self._shown, release.version)
        for asset in assets:
            if self._digest(asset) != release.files[asset.title].sha256:
                raise refused(self._shown, release.version)

    def _digest(self, asset: Asset) -> str:
        if asset.sha256:
            return asset.sha256
        with scratch_directory("guestforge-asset-") as directory:
            path = directory / "asset"
            self._github.download(asset, path, asset.size)
            return digest_file(path)

    def fetch(self, into: Path) -> None:
        """Fetch the assets of a release."""
        found = self._github.published(self._tag)
        if found is None:
            raise UserError(f"{self._shown} has no {f'release {self._tag}' if self._tag else 'published release'}")
        assets = self._github.assets(found)
        names = [asset.title for asset in assets]
        if len(names) > MAX_FILES or len(set(names)) < len(names):
            raise UserError(f"{self._shown}: {found.tag!a} has too many assets, or two with one name")
        for asset in assets:
            if not NAME.fullmatch(asset.title):
                raise UserError(f"{self._shown} has an asset {asset.title[:100]!a}, no name of a release's file")
            self._github.download(asset, into / asset.title, MAX_FILE)


def _is(asset: Asset, files: Mapping[str, FileFacts]) -> bool:
    """Whether an asset is a file of a release, by what GitHub says of it: without a digest nobody knows."""
    facts = files.get(asset.title)
    return facts is not None and asset.whole and (asset.size, asset.sha256) == (facts.size, facts.sha256)
