"""Who may import whom: packages in the order of docs/architecture.md, by their faces, and in no circle."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from checkout import REPOSITORY

from guestforge.core.code import ROOT

# Within a package: a part of it, and the parts of which it imports nothing.
STRANGERS = {
    "vhost/core": ("guestforge.vhost.fs", "guestforge.vhost.vsock"),
    "vhost/vsock": ("guestforge.vhost.fs",),
    "vhost/fs": ("guestforge.vhost.vsock",),
    "vhost/fs/fuse": ("guestforge.vhost.fs.device",),
}
FACED = ("oci", "agent", "vmm", "vhost", "check", "kernel", "release", "docker")
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
TOOLS = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
    for path in (ROOT.parent / "tools").rglob("*.py")
}
# What is for tests stands beside, and looks into every part.
PRODUCT = {module: path for module, path in MODULES.items() if not f"{module}.".startswith("guestforge.testing.")}
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


def imports(path: Path) -> Iterator[str]:
    """Yield what a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def module_of(name: str) -> str:
    """Return the module of ours that an imported name is, or is in; empty for another's."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def edges(modules: Mapping[str, Path] = MODULES) -> Iterator[tuple[str, str]]:
    """Yield which of these modules imports which of ours."""
    for module, path in modules.items():
        for name in imports(path):
            if (other := module_of(name)) and other not in {module, "guestforge"}:
                yield module, other


def package(module: str) -> str:
    return module.split(".")[1] if module.startswith("guestforge.") else ""


def order(text: str) -> list[str]:
    """Return the packages as the document has them."""
    table = text[text.index("| package |") :].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def against(packages: list[str], found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the imports that go against the order."""
    place = {name: number for number, name in enumerate(packages)}
    return [f"{one} -> {other}" for one, other in found if place[package(one)] < place[package(other)]]


def past(faces: dict[str, tuple[str, ...]], found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the imports that go past a package's face."""
    return [
        f"{one} -> {other}"
        for one, other in found
        if (there := package(other)) in faces
        and package(one) != there
        and other.removeprefix(f"guestforge.{there}.") not in faces[there]
    ]


def faces() -> dict[str, tuple[str, ...]]:
    return {name: importlib.import_module(f"guestforge.{name}").FACE for name in FACED}


def test_every_package_has_its_place() -> None:
    there = {package(module) for module in MODULES} - {""}
    assert (set(order(ARCHITECTURE.read_text())), len(order(ARCHITECTURE.read_text()))) == (there, len(there))


def test_packages_import_those_above_them_in_the_document() -> None:
    assert against(order(ARCHITECTURE.read_text()), edges()) == []


def test_packages_are_imported_by_their_faces() -> None:
    assert past(faces(), edges({**PRODUCT, **TOOLS})) == []


def test_nothing_imports_a_tool_or_what_is_for_tests() -> None:
    assert TOOLS
    assert len(PRODUCT) < len(MODULES)
    found = {(one, name) for one, path in {**PRODUCT, **TOOLS}.items() for name in imports(path)}
    assert {one for one, name in found if within(name, "guestforge.testing")} == set()
    assert {one for one, name in found if within(name, "tools") and one not in TOOLS} == set()


@pytest.mark.parametrize("name", FACED)
def test_a_face_has_what_others_import_and_nothing_else(name: str) -> None:
    used = {
        other.rpartition(".")[2] for one, other in edges({**PRODUCT, **TOOLS}) if package(other) == name != package(one)
    }
    assert set(faces()[name]) == used


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for one, other in edges():
        graph.setdefault(one, set()).add(other)
    list(graphlib.TopologicalSorter(graph).static_order())


# Who starts programs of this host, whatever the runtime: what installs packages, looks at the host, or makes an image.
ON_THE_HOST = ("guestforge.core.need", "guestforge.core.runtime", "guestforge.docker", "guestforge.host")
STARTERS = {
    "guestforge.core.run.run",
    "guestforge.core.run.spawn",
    "guestforge.core.run.find_tool",
    "guestforge.core.run",
}


def test_no_step_starts_a_program_past_its_runtime() -> None:
    found = {
        module
        for module, path in PRODUCT.items()
        for name in imports(path)
        if name in STARTERS or name.partition(".")[0] == "subprocess"
    }
    others = {module for module in found if not any(within(module, place) for place in ON_THE_HOST)}
    # these have the types and constants of subprocess for what a runtime starts; `run` is what starts programs
    assert others == {"guestforge.core.run", "guestforge.sources.unpack", "guestforge.vmm.user"}


# What a build that makes nothing must not pay for: a fifth of a second of imports, for guests that it does not boot.
FOR_GUESTS = {"guestforge.check.live", "guestforge.agent.client", "guestforge.vmm.machine", "google.protobuf", "qemu"}


def loaded_by(module: str) -> set[str]:
    """Return which of FOR_GUESTS a fresh Python has loaded once it has imported a module."""
    code = f"import sys, {module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return FOR_GUESTS.intersection(found.stdout.split())


def test_a_task_that_boots_nothing_imports_nothing_for_guests() -> None:
    assert loaded_by("guestforge.cli.commands") == set()
    assert loaded_by("guestforge.check.live") == FOR_GUESTS


def test_what_is_against_the_rules_is_seen() -> None:
    packages = ["core", "vmm", "check"]
    wrong = [("guestforge.core.run", "guestforge.vmm.plan"), ("guestforge.check.run", "guestforge.vmm.qmp")]
    assert against(packages, wrong) == ["guestforge.core.run -> guestforge.vmm.plan"]
    assert past({"vmm": ("plan",)}, wrong) == ["guestforge.check.run -> guestforge.vmm.qmp"]
    assert past({"vmm": ("plan",)}, [("guestforge.vmm.machine", "guestforge.vmm.qmp")]) == []
    assert order("| package | x |\n| --- | --- |\n| `core` | y |\n| `arch` | z |\n\n| `no` | |\n") == ["core", "arch"]


@pytest.mark.parametrize("part", STRANGERS)
def test_strangers_are_not_imported(part: str) -> None:
    modules = sorted((ROOT / part).rglob("*.py"))
    assert modules
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules
        for name in imports(path)
        for stranger in STRANGERS[part]
        if within(name, stranger)
    }
    assert found == set()


def test_a_forbidden_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "def f():\n    from guestforge.vhost.fs import device\nimport guestforge.vmm.plan as p\n"
    )
    assert list(imports(tmp_path / "a.py")) == ["guestforge.vmm.plan", "guestforge.vhost.fs.device"]
    assert within("guestforge.vhost.fs.device", "guestforge.vhost.fs")
    assert not within("guestforge.vhost.fsx", "guestforge.vhost.fs")
