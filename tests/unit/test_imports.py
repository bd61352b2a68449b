"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestforge.code import ROOT

# A part of the package, and the parts of which it imports nothing.
STRANGERS = {
    "vhost/core": ("guestforge.vhost.fs", "guestforge.vhost.vsock", "guestforge.vmm", "guestforge.check"),
    "vhost/vsock": ("guestforge.vhost.fs", "guestforge.vmm", "guestforge.check"),
    "vhost/fs": ("guestforge.vhost.vsock", "guestforge.vmm", "guestforge.check"),
    "vhost/fs/fuse": ("guestforge.vhost.fs.device", "guestforge.vhost.vsock"),
    "vmm": ("guestforge.vhost",),
    "kernel": ("guestforge.check", "guestforge.vmm", "guestforge.image", "guestforge.pipeline"),
    "sources": ("guestforge.kernel", "guestforge.rootfs", "guestforge.image", "guestforge.check"),
}


def imports(path: Path) -> Iterator[str]:
    """Yield what a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


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
