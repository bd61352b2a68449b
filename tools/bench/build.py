"""`./invoke bench.build`: builds against plain make, in a cache of their own beside the user's store.

Of the user's cache only what was fetched is used: the kernel's source, which packages it came from, Go's modules.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.bootable import guest_needs
from guestforge.check.report import REPORT
from guestforge.core.cache import SCRATCH, VARIABLE
from guestforge.core.errors import BuildError
from guestforge.core.files import digest_file, remove_tree
from guestforge.core.graph import Evaluation
from guestforge.core.progress import Bar, bar, say, step
from guestforge.core.runtime import HOST
from guestforge.core.scratch import scratch_directory
from guestforge.core.store import Store
from guestforge.host.packages import SWITCH, ensure
from guestforge.kernel.configure import CONFIG, configure
from guestforge.kernel.dotconfig import format_line, parse_line, read_dotconfig
from guestforge.kernel.fragment import COMMON, compose
from guestforge.kernel.make import ENVIRONMENT, Make, build_argv, configure_argv
from guestforge.kernel.packing import with_packing
from guestforge.kernel.step import CONFIG_COPY, FACTS, KERNEL, STEP
from guestforge.kernel.toolchain import identify
from guestforge.pipeline import Pipeline
from guestforge.project.folder import FILE
from guestforge.project.layout import CHECKOUT, FRAGMENTS, INVOKE, RECIPES
from guestforge.project.load import load_guest, load_kernel
from guestforge.project.models import Kernel
from guestforge.project.options import ARTIFACTS, BuildOptions, HostBenchOptions
from guestforge.sources.kernel_tree import kernel_tree
from guestforge.sources.linux import source_step
from guestforge.sources.resolution import Archive
from guestforge.vmm.emulator import choose_emulator
from tools.bench.builds import Change, Measured, figures
from tools.bench.figures import Section, Table, missed, write
from tools.bench.host import compiler, host_facts, now
from tools.bench.lanes import Command, Cost, Lane, alone, in_turn, seconds_of

BORROWED: Final = ("store/source", "store/package", "resolved", "go/modules")  # of the user's cache


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
    write(section)
    for line in missed(section):
        say(f"not met: {line}")


def _table(measured: Measured) -> Table:
    arch = measured.arch
    facts = (
        ("guest kernel", measured.release),
        ("compiler", compiler(arch)),
        ("emulator", choose_emulator(arch).version),
    )
    return Table(arch.name, facts, figures(measured))


def _measure(arch: Arch) -> Measured:
    user, options = Store(), BuildOptions()
    recipe = load_kernel(load_guest(options.guest).kernel)
    evaluation = Evaluation(user)
    steps = Pipeline(arch, options, evaluation).steps
    for before in (steps.kernel.uses["source"].step, steps.agent, steps.probe):
        evaluation.entry(before)  # what is not there is fetched and built before the clock runs
    with scratch_directory(SCRATCH, user.cache) as scratch:
        return Bench(arch, recipe, options.jobs, scratch, user.cache).measure()


class Bench:
    """The measurements of one architecture, in a scratch directory."""

    def __init__(self, arch: Arch, recipe: Kernel, jobs: int, scratch: Path, user_cache: Path) -> None:
        self._arch = arch
        self._recipe = recipe
        self._jobs = jobs
        self._scratch = scratch
        self._log = scratch / "log"
        self._output = scratch / "output"
        self._project = scratch / "project"  # a copy of this checkout's, whose fragments change
        self._fragments = self._project / FRAGMENTS.name
        self._store = Store(scratch / "cache")
        for folder in (RECIPES, FRAGMENTS):
            shutil.copytree(folder, self._project / folder.name)
        shutil.copy(CHECKOUT / FILE, self._project)
        for name in BORROWED:
            _borrow(user_cache / name, self._store.cache / name)
        self._tree = kernel_tree(Evaluation(self._store).entry(source_step(Archive(self._store), recipe.source)))
        # plain make reads the same tree, and writes a directory of its own
        self._plain = Make(arch, self._tree.path, scratch / "plain", self._tree.date, HOST)
        self._plain.build.mkdir()

    def measure(self) -> Measured:
        """Measure everything; the order matters, for each part goes on where the one before has ended."""
        made, plain = self._from_nothing()
        rest = self._whole()
        unchanged = self._unchanged()
        check = self._check()
        changes = [self._change(option, value) for option, value in CHANGES]
        peak_kib = max(made.peak_kib, rest.peak_kib)
        release = (self._plain.build / "include/config/kernel.release").read_text().strip()
        return Measured(self._arch, release, made, plain, peak_kib, unchanged, check, changes)

    # from nothing

    def _from_nothing(self) -> tuple[Cost, Cost]:
        """Build the kernel with both, in turn; return what each took."""
        shutil.copyfile(self._configured(), self._plain.build / CONFIG)
        ours = Lane([self._invoke("kernel")], self._log)
        theirs = Lane(self._make_commands(), self._log)
        with step(f"building the kernel for {self._arch.name} twice, with our step and with plain make"):
            in_turn([ours, theirs])
        self._require_same()
        say(f"the step took {ours.cost.seconds:.1f} s, plain make {theirs.cost.seconds:.1f} s")
        return ours.cost, theirs.cost

    def _configured(self) -> Path:
        """Return the configuration that the fragments make, as it is just now."""
        directory = self._scratch / "configured"
        directory.mkdir(exist_ok=True)
        make = Make(self._arch, self._tree.path, directory, self._tree.date, HOST)
        fragments = compose(self._recipe.fragments, self._arch.name, [self._fragments])
        requests = with_packing(fragments, self._arch, self._recipe.compression)
        configure(make, self._recipe.base, requests, identify(self._store.cache, self._arch, HOST), self._log)
        return directory / CONFIG

    def _require_same(self) -> Path:
        """Return the step's entry. Raises BuildError unless both have built the same configuration and kernel."""
        entry = next((self._store.cache / "store" / STEP).iterdir())
        ours, theirs = read_dotconfig(entry / CONFIG_COPY), read_dotconfig(self._plain.build / CONFIG)
        if ours != theirs:
            differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise BuildError(f"make built another configuration than our step: {', '.join(differing[:10])}")
        if digest_file(entry / KERNEL) != digest_file(
            self._plain.build / self._arch.kernel_file(self._recipe.compression)
        ):
            raise BuildError(
                "make built another kernel than our step, from the same source and configuration",
                hint="a build that is not reproducible: docs/kernels.md says what is pinned",
            )
        return entry

    # the whole

    def _whole(self) -> Cost:
        with step(f"building and checking the rest for {self._arch.name}"):
            return alone(self._invoke("build"), self._log)

    def _unchanged(self) -> list[float]:
        with bar(f"builds of {self._arch.name} with nothing changed", REPEATS, "builds") as shown:
            return [_counted(shown, lambda: seconds_of(self._invoke("build"), self._log)) for _ in range(REPEATS)]

    def _check(self) -> list[float]:
        """Return what checks took beyond their boots."""
        with bar(f"checks of {self._arch.name} alone", CHECKS, "checks") as shown:
            return [_counted(shown, self._check_once) for _ in range(CHECKS)]

    def _check_once(self) -> float:
        seconds = seconds_of(self._invoke("check"), self._log)
        guest = self._output / self._arch.name / BuildOptions().guest
        reports = [json.loads((guest / "check" / artifact / REPORT).read_text()) for artifact in ARTIFACTS]
        return seconds - sum(float(report["phases"]["done"]) for report in reports)

    # a change

    def _change(self, option: str, value: str) -> Change:
        """Change an option there and back, and build with both after each; who has the first turn changes too."""
        fragment, line = _find(self._fragments, option)
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
        remove_tree(self._store.cache / "store" / STEP)  # what was built before must not be found
        (self._plain.build / CONFIG).write_text(config)
        ours, theirs = Lane([self._invoke("kernel")], self._log), Lane(self._make_commands(), self._log)
        in_turn([ours, theirs] if step_first else [theirs, ours], SHORT_TURN)
        facts = json.loads((self._require_same() / FACTS).read_text())
        change.add(ours.cost, theirs.cost, int(facts["objects"]))
        say(f"the step took {ours.cost.seconds:.1f} s, plain make {theirs.cost.seconds:.1f} s")

    def _config_with(self, fragment: Path, line: str, state: str) -> str:
        """Return the configuration with a line of a fragment in another state, and leave the fragment as it was."""
        _put(fragment, line, state)
        text = self._configured().read_text()
        _put(fragment, state, line)
        return text

    # commands

    def _invoke(self, task: str) -> Command:
        argv = (INVOKE, task, "--project", self._project, "--arch", self._arch.name, "--output", self._output)
        return Command(argv, {VARIABLE: str(self._store.cache), SWITCH: "never"})

    def _make_commands(self) -> list[Command]:
        plain = self._plain
        argvs = (configure_argv(plain, "olddefconfig"), [*build_argv(plain), f"-j{self._jobs}"])
        return [Command(argv, ENVIRONMENT) for argv in argvs]


def _borrow(theirs: Path, ours: Path) -> None:
    """Have a directory of the user's cache in ours; one that is not there yet is made, for the tools to fill."""
    theirs.mkdir(parents=True, exist_ok=True)
    ours.parent.mkdir(parents=True, exist_ok=True)
    ours.symlink_to(theirs)


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


def _counted(shown: Bar, measure: Callable[[], float]) -> float:
    seconds = measure()
    shown.update()
    return seconds
