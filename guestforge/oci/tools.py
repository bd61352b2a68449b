"""skopeo and umoci: an image of any source to a layout, and a layout's image to a directory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.core.errors import BuildError, GuestforgeError, UserError
from guestforge.core.exposure import is_real_root
from guestforge.core.files import FULL
from guestforge.core.need import Need
from guestforge.core.progress import bar, step
from guestforge.core.run import Completed, ending
from guestforge.core.runtime import Runtime
from guestforge.oci.document import DIGEST
from guestforge.oci.layout import IMAGE

NEEDS: Final = (Need("skopeo", tool="skopeo"), Need("umoci", tool="umoci"))
ASK: Final = 120.0  # seconds in which a registry must have answered
WORK: Final = 3600.0  # seconds in which an image must be fetched, and must be unpacked
MAX_SHOWN: Final = 2000  # characters of what a tool says

# What a registry says of a reference, and not of itself: the error codes of
# https://github.com/opencontainers/distribution-spec/blob/main/spec.md
_USERS: Final = re.compile(
    r"manifest unknown|name unknown|repository name not known|unauthorized|denied|authentication required|"
    r"no image found in|invalid reference|name invalid|tag invalid|status\D{0,30}40[0134]\b",
    re.IGNORECASE,
)
_MESSAGE: Final = re.compile(r'(?:level=(?:fatal|error) msg="((?:[^"\\]|\\.)*)"|\u2a2f (.*\S))')  # skopeo's, umoci's
_DIGEST: Final = re.compile(f"^{DIGEST.pattern}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image for skopeo: its address, what a person calls it, and the architecture."""

    address: str
    title: str
    arch: Arch

    @property
    def remote(self) -> bool:
        """Whether it is a registry's."""
        return self.address.startswith("docker://")


def version(tool: str, runtime: Runtime) -> str:
    """Return the version of a tool, as it says it."""
    return runtime.run([tool, "--version"], timeout=ASK).output.strip()


def registry_digest(wanted: Wanted, runtime: Runtime) -> str:
    """Return the digest that a registry's reference has now: of a manifest, or of an index of several."""
    done = _skopeo(wanted, ["inspect", "--no-tags", "--format", "{{.Digest}}", wanted.address], runtime, timeout=ASK)
    if not (found := _DIGEST.search(done.output)):
        raise BuildError(f"skopeo told no digest of {wanted.title}", excerpt=_shown(done.output))
    return found[0]


def copy(wanted: Wanted, layout: Path, runtime: Runtime) -> None:
    """Copy an image into a new layout, its digests verified. Raises UserError for one that is not there or damaged."""
    # umoci takes layers that are compressed by gzip, and others only if they are called what they are
    argv = ["copy", "--dest-compress-format=gzip", wanted.address, f"oci:{layout}:{IMAGE}"]
    with step(f"copying the image {wanted.title}"):
        # an archive of a layout is unpacked there first
        _skopeo(wanted, argv, runtime, timeout=WORK, env={"TMPDIR": str(layout.parent)})


def unpack(layout: Path, root: Path, title: str, runtime: Runtime) -> None:
    """Unpack a layout's image into a new directory. Where we can't give files to any user, all are ours.

    It is not umoci's other command, which makes a runtime's configuration too: that waits for ever on a pipe that an
    image has as its /etc/passwd.
    """
    rootless = [] if is_real_root() else ["--rootless"]
    argv = ["umoci", "raw", "unpack", *rootless, "--image", f"{layout}:{IMAGE}", str(root)]
    with step(f"unpacking the image {title}"):
        done = runtime.run(argv, check=False, timeout=WORK)
    if done.returncode != 0:
        raise _failure(done, UserError, f"the image {title} can't be unpacked")


def _skopeo(
    wanted: Wanted, argv: list[str], runtime: Runtime, *, timeout: float, env: Mapping[str, str] | None = None
) -> Completed:
    variant = [f"--override-variant={wanted.arch.oci_variant}"] if wanted.arch.oci_variant else []
    platform = ["--override-os=linux", f"--override-arch={wanted.arch.go}", *variant]
    with bar(f"skopeo {argv[0]}", None, "parts") as shown:
        done = runtime.run(
            ["skopeo", *platform, *argv],
            env=env,
            on_line=lambda _: shown.update(),
            check=False,
            timeout=timeout,
        )
    if done.returncode != 0:
        theirs = not wanted.remote or bool(_USERS.search(_said(done.output)))
        raise _failure(done, UserError if theirs else BuildError, f"the image {wanted.title} can't be had")
    return done


def _failure(done: Completed, kind: type[GuestforgeError], message: str) -> GuestforgeError:
    if FULL in done.output.lower() or done.returncode < 0:
        kind = BuildError
    tool = Path(done.argv[0]).name
    return kind(f"{message}: {tool} {ending(done.returncode)}", excerpt=_shown(_said(done.output)))


def _said(output: str) -> str:
    """Return what a tool says went wrong, all that it wrote where it marks nothing as that."""
    found = (one or other for one, other in _MESSAGE.findall(output))
    return "\n".join(text.replace('\\"', '"') for text in found) or output


def _shown(text: str) -> str:
    """Return a text's end without what a terminal would obey: names of an image are in it."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text[-MAX_SHOWN:])
