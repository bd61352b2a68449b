"""guestforge's own files in a tree, digested and never run: what of a step's key they decide."""

import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from guestforge.ci.definitions import Top, digest_of, digest_of_row, top_level
from guestforge.core.code import ROOT, code_digest
from guestforge.core.files import digest_tree
from guestforge.project.layout import AGENT_SOURCES, CHECKOUT

PACKAGE: Final = ROOT.relative_to(CHECKOUT)
AGENT: Final = AGENT_SOURCES.relative_to(CHECKOUT)
REQUIREMENTS: Final = Path("requirements.lock")
ABSENT: Final = "absent"  # in the place of a digest of what a tree does not have
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


class Checkout:
    """A tree of guestforge's. Each file is read once, and each digest is taken once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.definitions = cache(self._definitions)
        self.row = cache(self._row)
        self._top = cache(self._read_top)

    def code(self, *modules: str) -> str:
        """Return the digest of the code that modules lead to."""
        try:
            return code_digest(*modules, root=self.root / PACKAGE)
        except KeyError:
            return ABSENT

    def pins(self, *packages: str) -> dict[str, str]:
        """Return the versions of Python packages that the lock file has."""
        return {name: self._pins.get(name, ABSENT) for name in packages}

    @cached_property
    def agent(self) -> str:
        """The digest of the Go sources."""
        sources = self.root / AGENT
        return digest_tree(sources) if sources.is_dir() else ABSENT

    @cached_property
    def _pins(self) -> Mapping[str, str]:
        path = self.root / REQUIREMENTS
        return dict(_PIN.findall(path.read_text())) if path.is_file() else {}

    def _definitions(self, module: str, *names: str) -> str:
        """Return the digest of definitions of a module of ours, named without the package."""
        return digest_of(self._top(module), *names) or ABSENT

    def _row(self, arch: str) -> str:
        """Return the digest of an architecture's row, and of what all rows are made of."""
        return digest_of_row(self._top("arch"), arch) or ABSENT

    def _read_top(self, module: str) -> Top:
        path = self.root / PACKAGE / f"{module.replace('.', '/')}.py"
        try:
            return top_level(path.read_text()) if path.is_file() else {}
        except (SyntaxError, UnicodeDecodeError):
            return {}
