"""How a kernel's bootable file is packed: a recipe's key, and the option that it asks Kconfig for."""

from collections.abc import Iterable
from typing import Final

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.kernel.fragment import Request

PLACE: Final = "the kernel's recipe: compression"


def with_packing(requests: tuple[Request, ...], arch: Arch, compression: str | None) -> tuple[Request, ...]:
    """Return what fragments ask for, and the compression of a recipe; None is what the architecture does by default.

    Nothing is added where the architecture's bootable file is not packed, or where a fragment has chosen and the recipe
    has not. Raises UserError where both have, and for a compression that the architecture's file does not know.
    """
    if not arch.kernel_packings:
        return requests
    asked = _asked(requests, arch)
    if compression is None and asked:
        return requests
    if asked:
        raise UserError(
            f'{PLACE} = "{compression}", and {asked.place} asks for {asked.option}',
            hint="take the line out of the fragment, or the key out of the recipe",
        )
    packing = arch.kernel_packings[0]
    if compression is not None:
        known = {each.name: each for each in arch.kernel_packings}
        if compression not in known:
            raise UserError(f"{PLACE}: {arch.name} has no {compression}", hint=f"it has {', '.join(known)}")
        packing = known[compression]
    return (*requests, Request(packing.option, "y", PLACE, 0)) if packing.option else requests


def _asked(requests: Iterable[Request], arch: Arch) -> Request | None:
    options = {packing.option for packing in arch.kernel_packings}
    return next((request for request in requests if request.option in options and request.value == "y"), None)
