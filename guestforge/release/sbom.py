"""The SBOMs of an archive: written in both formats, and compared with what the archive's manifest says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Final
from uuid import NAMESPACE_OID, UUID, uuid5

from guestforge.release.components import Bill
from guestforge.release.cyclonedx import cyclonedx_text, read_cyclonedx
from guestforge.release.documents import Found, Identity, Refused
from guestforge.release.names import CYCLONEDX, SPDX
from guestforge.release.spdx import read_spdx, spdx_text

Write = Callable[[Bill, UUID, int], bytes]
Read = Callable[[bytes], Found]

WRITERS: Final[Mapping[str, Write]] = {CYCLONEDX: cyclonedx_text, SPDX: spdx_text}
READERS: Final[Mapping[str, Read]] = {CYCLONEDX: read_cyclonedx, SPDX: read_spdx}


def sboms(bill: Bill, epoch: int) -> dict[str, bytes]:
    """Return the SBOMs of an archive by their files' names; `epoch` is the time in them, in seconds since 1970."""
    content = json.dumps([asdict(bill), epoch], sort_keys=True)
    return {
        bill.name + suffix: write(bill, uuid5(NAMESPACE_OID, suffix + content), epoch)
        for suffix, write in WRITERS.items()
    }


def require_of(data: bytes, suffix: str, bill: Bill) -> None:
    """Raise Refused unless an SBOM, of the format with this suffix, is of an archive with these components."""
    found = READERS[suffix](data)
    identities = {component.ref: component.identity for component in bill.components}
    archive = bill.components[0].identity
    if found.archive != archive:
        raise Refused(f"it is of {_shown(found.archive)}, and the archive is {_shown(archive)}")
    there, wanted = found.components, frozenset(identities.values())
    if missing := sorted(map(_shown, wanted - there)):
        raise Refused(f"it does not have {missing[0]}, which the archive's manifest says")
    if more := sorted(map(_shown, there - wanted)):
        raise Refused(f"it has {more[0]}, which the archive's manifest does not say")
    links = frozenset((identities[link.one], identities[link.other]) for link in bill.relations)
    for one, other in sorted(found.links ^ links, key=str):
        raise Refused(f"how {_shown(one)} stands to {_shown(other)} is not as the archive's manifest says")


def _shown(identity: Identity) -> str:
    return ascii(" ".join(word for word in identity if word)[:300])
