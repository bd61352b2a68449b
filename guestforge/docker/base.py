"""The image that the builder image stands on: Debian's own where it can be pulled, else one that is bootstrapped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docker.errors import APIError

from guestforge.core.need import Need
from guestforge.core.progress import bar, say
from guestforge.core.run import run
from guestforge.core.scratch import scratch_directory
from guestforge.docker.apt import SETTINGS, SOURCES
from guestforge.docker.engine import Engine, engine_errors, has_image
from guestforge.host.packages import ensure

DEBIAN: Final = "debian"
BOOTSTRAPPED: Final = "localhost/guestforge-base"  # Podman looks for a name without a host at registries alone
NEEDS: Final = (Need("mmdebstrap", tool="mmdebstrap"),)


def find_base(engine: Engine, suite: str, apt: Mapping[str, bytes]) -> str:
    """Return the name of an image of a Debian suite that the engine has, having pulled or bootstrapped it.

    `apt` are the files that say where packages come from, by their paths (see `apt`).
    """
    pulled, own = f"{DEBIAN}:{suite}-slim", f"{BOOTSTRAPPED}-{suite}:latest"
    for name in (pulled, own):
        if has_image(engine, name):
            return name
    try:
        say(f"pulling {pulled}")
        engine.client.images.pull(DEBIAN, f"{suite}-slim")
    except APIError as e:
        say(f"{pulled} can't be pulled ({str(e.explanation or e)[:200]}): bootstrapping {own} with mmdebstrap instead")
    else:
        return pulled
    _bootstrap(engine, suite, apt)
    return own


def _bootstrap(engine: Engine, suite: str, apt: Mapping[str, bytes]) -> None:
    ensure(NEEDS)
    with scratch_directory("guestforge-base-") as scratch:
        sources, archive = scratch / "host.sources", scratch / "base.tar"
        sources.write_bytes(apt[SOURCES])
        settings = [f"--aptopt={line.rstrip(';')}" for line in apt[SETTINGS].decode().splitlines()]
        argv: list[str | Path] = [
            "mmdebstrap",
            "--variant=apt",
            "--include=ca-certificates",
            *settings,
            suite,
            archive,
            sources,
        ]
        with bar(f"bootstrapping {suite}", None, "lines") as shown:
            run(argv, on_line=lambda _: shown.update())
        with engine_errors(engine, "importing the base image"):
            _import(engine, archive, suite)


def _import(engine: Engine, archive: Path, suite: str) -> None:
    engine.client.api.import_image_from_file(str(archive), repository=f"{BOOTSTRAPPED}-{suite}", tag="latest")
