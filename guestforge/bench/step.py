"""`python -m guestforge.bench.step`: the kernel step alone, with fragments from anywhere, as a program to be measured.

`./invoke kernel` reads the repository's own fragments, which a measurement must not change.
"""

import argparse
import sys
from pathlib import Path

from guestforge.arch import Arch, lookup
from guestforge.core.errors import GuestforgeError
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.store import Store
from guestforge.kernel.step import kernel_step
from guestforge.project.load import load_guest, load_kernel
from guestforge.sources.linux import source_step
from guestforge.sources.resolution import Archive


def step_argv(arch: Arch, guest: str, cache: Path, fragments: Path, jobs: int) -> list[str]:
    """Return the command that builds the kernel of a guest's recipe; the package must be on PYTHONPATH."""
    values = (arch.name, guest, str(cache), str(fragments), str(jobs))
    return [sys.executable, "-P", "-m", "guestforge.bench.step", *values]


def main() -> int:
    """Build the kernel; return the exit code."""
    parser = argparse.ArgumentParser(prog="guestforge.bench.step")
    for name, kind in (("arch", lookup), ("guest", str), ("cache", Path), ("fragments", Path), ("jobs", int)):
        parser.add_argument(name, type=kind)
    given = parser.parse_args()
    recipe = load_kernel(load_guest(given.guest).kernel)
    try:
        store = Store(given.cache)
        source = source_step(Archive(store), recipe.source)
        step = kernel_step(store, given.arch, recipe, source, jobs=Jobserver(given.jobs), fragments=[given.fragments])
        Evaluation(store).entry(step)
    except GuestforgeError as error:
        print(error.report(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
