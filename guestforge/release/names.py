"""What the files of a release are called."""

import re
from typing import Final

from guestforge.check.report import FILES
from guestforge.core.errors import UserError
from guestforge.image.disk_step import IMAGE
from guestforge.image.initrd_step import INITRD
from guestforge.kernel.step import CONFIG_COPY, KERNEL, SYSTEM_MAP
from guestforge.manifest import MANIFEST
from guestforge.project.option import version
from guestforge.project.options import ARTIFACTS, Artifact

SUMS: Final = "SHA256SUMS"
# https://github.com/in-toto/attestation/blob/main/spec/v1/bundle.md#file-naming-convention
ENVELOPE: Final = "provenance.intoto.jsonl"  # where there is a key: an envelope has at least one signature
STATEMENT: Final = "provenance.json"  # where there is none
NOTES: Final = "RELEASE-NOTES.md"
SUFFIX: Final = ".tar.zst"
MINISIG: Final = ".minisig"
SIGNATURE: Final = SUMS + MINISIG
CYCLONEDX: Final = ".cdx.json"  # https://cyclonedx.org/specification/overview/#recognized-file-patterns
SPDX: Final = ".spdx.json"  # https://spdx.github.io/spdx-spec/v2.3/conformance/#44-standard-data-format-requirements
SBOMS: Final = (CYCLONEDX, SPDX)  # what stands beside each archive

# What the file system of any consumer takes, and what no shell and no sha256sum reads as something else.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")

ROOTS: Final[dict[Artifact, str]] = {"initrd": INITRD, "image": IMAGE}  # what is booted with the kernel
FILES_OF_A_GUEST: Final = (KERNEL, CONFIG_COPY, SYSTEM_MAP, *ROOTS.values())
CHECK_FILES: Final = {f"check/{artifact}/{name}": artifact for artifact in ARTIFACTS for name in FILES}


def stem(guest: str, version: str, arch: str) -> str:
    """Return what an archive's files are below, which is its name without the suffix."""
    return f"guestforge-{guest}-{version}-{arch}"


def archive_of(name: str) -> str | None:
    """Return the name of the archive that a file of a release is, or that an SBOM is of; None for any other file."""
    for suffix in (SUFFIX, *SBOMS):
        if name.endswith(suffix):
            return name.removesuffix(suffix) + SUFFIX
    return None


def sboms_of(archive: str) -> tuple[str, ...]:
    """Return the names of an archive's SBOMs."""
    return tuple(archive.removesuffix(SUFFIX) + suffix for suffix in SBOMS)


def members() -> tuple[str, ...]:
    """Return the names of an archive's files in their order.

    The manifest is the first, so that whoever reads an archive knows what may follow, and how much of it.
    """
    return (MANIFEST, *sorted((*FILES_OF_A_GUEST, *CHECK_FILES)))


def is_version(text: str) -> bool:
    """Whether a text is a version by SemVer 2.0."""
    try:
        return bool(version("", text))
    except UserError:
        return False
