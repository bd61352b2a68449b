"""The builder image: what building and booting guests takes of a distribution, made once for the same inputs."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge import __version__
from guestforge.arch import Arch
from guestforge.core.need import Need
from guestforge.core.progress import bar, say
from guestforge.docker.apt import image_files, proxies
from guestforge.docker.base import find_base
from guestforge.docker.engine import Engine, engine_errors, has_image, refused
from guestforge.host.packages import Percent
from guestforge.project.load import Folders
from guestforge.project.template import find_template, render_template
from guestforge.sources.hostapt import ETC

NAME: Final = "localhost/guestforge-builder"
TEMPLATE: Final = "builder/Dockerfile.j2"
SUITE: Final = "bookworm"
# What `./invoke` itself takes, and the tools by which it looks at what it runs on.
ALWAYS: Final = ("apt", "ca-certificates", "dpkg", "python3", "python3-venv", "tar", "util-linux")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the image is made of; `files` are those that are copied into it, by their paths."""

    packages: tuple[str, ...]
    architectures: tuple[str, ...]
    files: Mapping[str, bytes]
    recipes: Folders

    @property
    def tag(self) -> str:
        """The image's tag: a hash of all that it is made of."""
        state = hashlib.sha256(self.dockerfile(SUITE).encode())
        for name, data in sorted(self.files.items()):
            state.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        return state.hexdigest()[:16]

    def dockerfile(self, base: str) -> str:
        """Return the Dockerfile. Raises UserError for a template that is wrong."""
        values = {
            "base": base,
            "suite": SUITE,
            "packages": self.packages,
            "architectures": self.architectures,
            "version": __version__,
        }
        return render_template(find_template(TEMPLATE, self.recipes), values, documented="docs/docker.md")


def recipe(
    arches: Iterable[Arch], needs: Iterable[Need], mirror: str | None, recipes: Folders, etc: Path = ETC
) -> Recipe:
    """Return what the image for architectures is made of, which is to meet some needs."""
    packages = tuple(sorted({*ALWAYS, *(need.package for need in needs)}))
    return Recipe(packages, tuple(arch.name for arch in arches), image_files(SUITE, mirror, etc), recipes)


def find_builder(engine: Engine, made_of: Recipe) -> str:
    """Return the name of the image at an engine, having made it where it was not there.

    Raises BuildError for an engine that can't make it.
    """
    name = f"{NAME}:{made_of.tag}"
    if has_image(engine, name):
        return name
    base = find_base(engine, SUITE, made_of.files)
    context = _context(made_of.dockerfile(base), made_of.files)
    say(f"making the builder image {name} of {base}: {len(made_of.packages)} packages and what they need")
    with engine_errors(engine, f"making the image {name}"):
        lines = engine.client.api.build(
            fileobj=context,
            custom_context=True,
            tag=name,
            rm=True,
            forcerm=True,
            decode=True,
            network_mode="host",  # the host's proxy may be on its loopback
            buildargs=proxies(os.environ),
        )
        with bar("making the builder image", 100, "%") as shown:
            _follow(lines, Percent(shown), name)
    return name


def _follow(lines: Iterable[Mapping[str, object]], percent: Percent, name: str) -> None:
    """Read what the engine says of a build to its end."""
    said: list[str] = []
    for line in lines:
        if "error" in line:
            raise refused("\n".join([*said[-20:], str(line["error"])]), f"the image {name} could not be made")
        for text in str(line.get("stream", "")).splitlines():
            said.append(text)
            percent(text)


def _context(dockerfile: str, files: Mapping[str, bytes]) -> io.BytesIO:
    """Return the tar of a Dockerfile and what is copied."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        copied = {f"root/{name}": data for name, data in files.items()}
        for name, data in {"Dockerfile": dockerfile.encode(), **copied}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    context.seek(0)
    return context
