"""OCI layouts: which image in one is meant, and what an image in one says of itself."""

import json
import shutil
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.oci.document import DIGEST, Document, part, read_blob, read_document, word

IMAGE: Final = "image"  # the tag of the only image in a layout of ours
TAG: Final = "org.opencontainers.image.ref.name"
MAX_IMAGES: Final = 4096
_SHOWN: Final = 10  # tags in an error
_MAX_WORD: Final = 1024


def choose(layout: Path, tag: str, arch: Arch) -> Document:
    """Return the descriptor of the image that is tagged so in a layout, the only one where there is no tag.

    Where several have the tag, it is the one for the architecture. Raises UserError where none or several are left.
    """
    index = read_document(layout / "index.json", f"{layout}/index.json")
    images = _descriptors(index, f"{layout}/index.json")
    found = [image for image in images if not tag or _tag(image) == tag]
    if len(found) > 1 and len({_tag(image) for image in found}) == 1:
        found = [image for image in found if _platform(image) == ("linux", arch.go)] or found
    if len(found) == 1:
        return found[0]
    tags = list(dict.fromkeys(filter(None, map(_tag, images))))
    names = ", ".join(repr(name) for name in tags[:_SHOWN]) + (", ..." if len(tags) > _SHOWN else "")
    hint = f"{layout}:TAG, with a tag of {names}" if names else None
    if not images:
        raise UserError(f"{layout} has no image")
    if not found:
        raise UserError(f"{layout} has no image with the tag {tag!r}", hint=hint or "it has one without a tag")
    raise UserError(f"{layout} has {len(found)} images{f' with the tag {tag!r}' if tag else ''}", hint=hint)


def isolate(layout: Path, descriptor: Document, arch: Arch, place: Path) -> None:
    """Make a layout that has one image of another, by the digest that was read, with the other's blobs.

    skopeo compares the digests of layers and configurations, but not of what a layout has to list those.
    Raises UserError for a list that does not have its digest.
    """
    listed = read_blob(layout, digest_of(descriptor, "an image's descriptor"), "the image's manifest")
    for each in _descriptors(listed, "the image's index") if "manifests" in listed else ():
        digest = digest_of(each, "the image's index")
        if _platform(each) == ("linux", arch.go):  # the others need not be there
            read_blob(layout, digest, "the image's manifest")
    place.mkdir()
    shutil.copyfile(layout / "oci-layout", place / "oci-layout")
    (place / "blobs").symlink_to(layout / "blobs")
    only = {**descriptor, "annotations": {TAG: IMAGE}}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [only]}))


def digest_of(descriptor: Document, what: str) -> str:
    """Return the digest that a descriptor has; raises UserError for none."""
    digest = word(descriptor, "digest", what, _MAX_WORD)
    if not DIGEST.fullmatch(digest):
        raise UserError(f"{what} has no SHA-256 digest where one should be")
    return digest


def read_image(layout: Path) -> tuple[str, Document]:
    """Return the digest of the manifest of a layout's only image, and the image's configuration."""
    (descriptor,) = _descriptors(read_document(layout / "index.json", "the image's index"), "the image's index")
    digest = digest_of(descriptor, "the image's index")
    manifest = read_blob(layout, digest, "the image's manifest")
    config = digest_of(part(manifest, "config", "the image's manifest"), "the image's manifest")
    return digest, read_blob(layout, config, "the image's configuration")


def _descriptors(index: Document, what: str) -> list[Document]:
    found = index.get("manifests")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise UserError(f"{what} has no list of images")
    if len(found) > MAX_IMAGES:
        raise UserError(f"{what} has {len(found)} images; {MAX_IMAGES} are taken")
    return found


def _tag(descriptor: Document) -> str:
    return word(part(descriptor, "annotations", "an image's descriptor"), TAG, "an image's descriptor", _MAX_WORD)


def _platform(descriptor: Document) -> tuple[str, str]:
    platform = part(descriptor, "platform", "an image's descriptor")
    system, arch = (word(platform, key, "an image's platform", _MAX_WORD) for key in ("os", "architecture"))
    return system, arch
