"""The recipes' models: every key that a recipe may have, with its type, its bounds and what it means.

A key's description is what docs/recipes.md is checked against.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from guestforge.arch import ARCHES

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
# Debian policy 5.6.1 and 5.6.12: names of packages, versions
Package = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]{1,127}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~:-]{0,127}$")]
# What a runner is chosen by: GitHub's labels and GitLab's tags are free texts, of which this is what people use
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,127}$")]
Hostname = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
Mode = Annotated[str, StringConstraints(pattern=r"^0?[0-7]{3,4}$")]


class Model(BaseModel):
    """A part of a recipe: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Ci(Model):
    """How a CI system runs a project."""

    runner: tuple[Label, ...] = Field((), description="the labels (GitLab's tags) of the runner that builds a guest")
    runners: dict[str, tuple[Label, ...]] = Field({}, description="the same for one architecture, by its name")

    @field_validator("runners")
    @classmethod
    def _of_architectures(cls, runners: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if unknown := [name for name in runners if name not in ARCHES]:
            raise ValueError(f"unknown architecture {unknown[0]!r}; there are {', '.join(ARCHES)}")
        return runners

    def runner_of(self, arch: str) -> tuple[str, ...]:
        """Return the labels of the runner for an architecture; none where the project names none."""
        return self.runners.get(arch, self.runner)


class Settings(Model):
    """What a project's guestforge.toml may say."""

    guest: Name = Field("minimal", description="the guest that is built where --guest names none")
    ci: Ci = Field(Ci(runner=(), runners={}), description="how a CI system runs it")


class DebianSource(Model):
    """A kernel tree from a Debian source package, fetched and verified by apt."""

    kind: Literal["debian"] = Field(description="where the tree comes from")
    package: Package = Field(description="the package that holds the tree, such as linux-source-6.12")
    suite: Name = Field(description="the Debian suite to take it from")
    version: Version | None = Field(None, description="this version and no other; without it the suite's newest")


class Kernel(Model):
    """A kernel: where its source comes from and what is asked of its configuration."""

    source: DebianSource = Field(description="where the kernel tree comes from")
    base: Literal["allnoconfig", "tinyconfig", "defconfig"] = Field(
        "allnoconfig", description="the make target whose configuration the fragments are laid on"
    )
    compression: Literal["lz4", "zstd", "gzip", "xz", "none"] | None = Field(
        None, description="how the bootable file is packed, where the architecture's unpacks itself; lz4 if not given"
    )
    fragments: tuple[Name, ...] = Field(
        min_length=1, description="fragments of kernel-configs/common and, where there, of the architecture's folder"
    )


class Rootfs(Model):
    """What a guest's root file system holds besides the agent."""

    kind: Literal["minimal"] = Field("minimal", description="minimal: the agent and what it needs, nothing else")
    hostname: Hostname = Field("localhost", description="the guest's host name until a runtime sets one")
    packages: tuple[Package, ...] = Field(
        (), description="Debian packages of the guest's architecture whose files are added (no maintainer scripts run)"
    )
    suite: Name = Field("bookworm", description="the Debian suite that the packages come from")
    overlays: tuple[Name, ...] = Field(
        (), description="folders of the project's overlays/ whose files are laid over it"
    )
    modes: dict[str, Mode] = Field(
        {}, description="modes of what is in it: absolute path in the guest, and octal digits"
    )
    links: dict[str, str] = Field({}, description="symbolic links to add: absolute path in the guest, and its target")


class Initrd(Model):
    """The initrd."""

    compression: Literal["lz4", "zstd", "gzip", "none"] | None = Field(
        None, description="how it is compressed; without it the first of these that the kernel unpacks"
    )


class Image(Model):
    """The disk image."""

    size_mib: int | None = Field(None, ge=10, le=65536, description="size of the disk; without it what the tree needs")


class Boot(Model):
    """The machine that the guest is booted on."""

    memory_mib: int = Field(256, ge=56, le=524288, description="the guest's memory")
    cpus: int = Field(1, ge=1, le=255, description="the guest's processors")
    kernel_args: tuple[str, ...] = Field((), description="added to the kernel's command line")


class Guest(Model):
    """A guest: a kernel, a root file system, and the machine to prove them on."""

    description: str = Field(description="one line for people")
    kernel: Name = Field(description="a recipe of recipes/kernels")
    rootfs: Name = Field(description="a recipe of recipes/rootfs")
    initrd: Initrd = Field(Initrd(compression=None), description="the initrd")
    image: Image = Field(Image(size_mib=None), description="the disk image")
    boot: Boot = Field(Boot(memory_mib=256, cpus=1, kernel_args=()), description="the machine that it is booted on")
