"""`./invoke bench.build`: builds of one architecture after the other against plain make, in a scratch project."""

import json
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.bootable import guest_needs
from guestforge.check.report import REPORT
from guestforge.core.cache import SCRATCH
from guestforge.core.errors import BuildError
from guestforge.core.files import remove_tree
from guestforge.core.progress import bar, say, step
from guestforge.core.scratch import scratch_directory
from guestforge.core.store import Store
from guestforge.host.packages import ensure
from guestforge.kernel.dotconfig import format_line, parse_line
from guestforge.kernel.fragment import COMMON
from guestforge.kernel.step import FACTS, STEP
from guestforge.pipeline import Pipeline
from guestforge.project.options import ARTIFACTS, BuildOptions, HostBenchOptions
from guestforge.vmm.emulator import choose_emulator
from tools.bench.builds import Change, Measured, figures
from tools.bench.figures import Section, Table, publish
from tools.bench.host import compiler, host_facts, now
from tools.bench.lanes import Cost, Lane, alone, in_turn, repeated, seconds_of
from tools.bench.scratch_project import PlainMake, ScratchProject, fetch

REPEATS: Final = 5  # builds with nothing changed
CHECKS: Final = 3  # checks alone
ROUNDS: Final = 6  # builds after a change, there and back in turn
SHORT_TURN: Final = 1.0  # seconds, of builds that take less than a minute
# Options with the value that each is changed to: about twenty objects depend on the one, about fifty on the other.
CHANGES: Final = (("CONFIG_EXT4_FS_SECURITY", "n"), ("CONFIG_UTS_NS", "n"))


def run(measured: HostBenchOptions) -> None:
    """Measure the architectures that were asked for, and write the section."""
    for arch in measured.arches:
        ensure(guest_needs(Pipeline(arch, BuildOptions())))
    facts = host_facts()
    tables = tuple(_table(_measure(arch)) for arch in measured.arches)
    section = Section("build", now(), facts, tables)
    publish(section)


def _table(measured: Measured) -> Table:
    arch = measured.arch
    facts = (
        ("guest kernel", measured.release),
        ("compiler", compiler(arch)),
        ("emulator", choose_emulator(arch).version),
    )
    return Table(arch.name, facts, figures(measured))


def _measure(arch: Arch) -> Measured:
    user = Store()
    fetch(arch, user)
    with scratch_directory(SCRATCH, user.cache) as scratch:
        return Bench(arch, ScratchProject(scratch, user.cache)).measure()


class Bench:
    """The measurements of one architecture, in a scratch project."""

    def __init__(self, arch: Arch, project: ScratchProject) -> None:
        self._arch = arch
        self._project = project
        self._log = project.log
        self._plain = PlainMake(project, arch)

    def measure(self) -> Measured:
        """Measure everything; the order matters, for each part goes on where the one before has ended."""
        made, plain = self._from_nothing()
        rest = self._whole()
        unchanged = self._unchanged()
        check = self._check()
        changes = [self._change(option, value) for option, value in CHANGES]
        peak_kib = max(made.peak_kib, rest.peak_kib)
        return Measured(self._arch, self._plain.release, made, plain, peak_kib, unchanged, check, changes)

    # from nothing

    def _from_nothing(self) -> tuple[Cost, Cost]:
        """Build the kernel with both, in turn; return what each took."""
        self._plain.configure(self._plain.configured())
        ours, theirs = self._lanes()
        with step(f"building the kernel for {self._arch.name} twice, with our step and with plain make"):
            in_turn([ours, theirs])
        self._plain.require_same()
        say(f"the step took {ours.cost.seconds:.1f} s, plain make {theirs.cost.seconds:.1f} s")
        return ours.cost, theirs.cost

    def _lanes(self) -> tuple[Lane, Lane]:
        return Lane([self._project.invoke("kernel", self._arch)], self._log), Lane(self._plain.commands(), self._log)

    # the whole

    def _whole(self) -> Cost:
        with step(f"building and checking the rest for {self._arch.name}"):
            return alone(self._project.invoke("build", self._arch), self._log)

    def _unchanged(self) -> list[float]:
        command = self._project.invoke("build", self._arch)
        title = f"builds of {self._arch.name} with nothing changed"
        return repeated(title, REPEATS, "builds", lambda: seconds_of(command, self._log))

    def _check(self) -> list[float]:
        """Return what checks took beyond their boots."""
        return repeated(f"checks of {self._arch.name} alone", CHECKS, "checks", self._check_once)

    def _check_once(self) -> float:
        command = self._project.invoke("check", self._arch, options=("--jobs", "1"))
        seconds = seconds_of(command, self._log)
        guest = self._project.built(self._arch)
        reports = [json.loads((guest / "check" / artifact / REPORT).read_text()) for artifact in ARTIFACTS]
        return seconds - sum(float(report["phases"]["done"]) for report in reports)

    # a change

    def _change(self, option: str, value: str) -> Change:
        """Change an option there and back, and build with both after each; who has the first turn changes too."""
        fragment, line = _find(self._project.fragments, option)
        states = [line, format_line(option, value)]
        configs = [self._config_with(fragment, line, state) for state in states]
        change = Change(option)
        with bar(f"{self._arch.name} kernels with {option} changed and restored", ROUNDS, "rounds") as shown:
            for number in range(1, ROUNDS + 1):
                state = number % 2
                _put(fragment, states[1 - state], states[state])
                self._round(change, configs[state], step_first=number % 4 in (1, 2))
                shown.update()
        return change

    def _round(self, change: Change, config: str, *, step_first: bool) -> None:
        """Build with the fragments as they are now, and with make from the configuration that they make."""
        kernels = self._project.store.cache / "store" / STEP
        remove_tree(kernels)  # what was built before must not be found
        self._plain.configure(config)
        ours, theirs = self._lanes()
        in_turn([ours, theirs] if step_first else [theirs, ours], SHORT_TURN)
        self._plain.require_same()
        facts = json.loads((next(kernels.iterdir()) / FACTS).read_text())
        change.add(ours.cost, theirs.cost, int(facts["objects"]))
        say(f"the step took {ours.cost.seconds:.1f} s, plain make {theirs.cost.seconds:.1f} s")

    def _config_with(self, fragment: Path, line: str, state: str) -> str:
        """Return the configuration with a line of a fragment in another state, and leave the fragment as it was."""
        _put(fragment, line, state)
        text = self._plain.configured()
        _put(fragment, state, line)
        return text


def _find(fragments: Path, option: str) -> tuple[Path, str]:
    """Return the fragment that asks for an option, and its line."""
    for path in sorted(fragments.glob(f"{COMMON}/*.conf")):
        for line in path.read_text().splitlines():
            if (pair := parse_line(line)) and pair[0] == option:
                return path, line
    raise BuildError(f"no fragment asks for {option}, with which a change is measured")


def _put(path: Path, old: str, new: str) -> None:
    """Replace a line of a fragment."""
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{new if line == old else line}\n" for line in lines))
