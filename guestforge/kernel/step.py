"""The kernel step: from a recipe and a tree to the bootable kernel."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from guestforge.arch import Arch
from guestforge.core.errors import BuildError
from guestforge.core.files import atomic_copy
from guestforge.core.jobserver import Jobserver
from guestforge.core.progress import bar, step
from guestforge.core.run import Completed
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Use, Used
from guestforge.core.store import Store, key_of
from guestforge.kernel.buildlog import first_error, is_object
from guestforge.kernel.configure import CONFIG, configure
from guestforge.kernel.dotconfig import Config, read_dotconfig
from guestforge.kernel.estimate import expected_objects
from guestforge.kernel.fragment import OURS, Request, compose, composed_text
from guestforge.kernel.make import ENVIRONMENT, Make, build_argv
from guestforge.kernel.packing import with_packing
from guestforge.kernel.toolchain import Toolchain, identify, kernel_needs
from guestforge.kernel.verify import verify
from guestforge.project.models import Kernel
from guestforge.sources.kernel_tree import KernelTree, kernel_tree

STEP = "kernel"
KERNEL, CONFIG_COPY, SYSTEM_MAP, FACTS = "kernel", "config", "System.map", "kernel.json"
RELEASE = Path("include/config/kernel.release")
COMPILER_MIB = 300  # in memory, of one compiler or of all else that make starts; 882 for two were measured
FINISHED = "finished"  # in a build directory: a whole build has ended there, so the next one compiles what changed


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a kernel is made from; `file` is the bootable one below the build directory."""

    arch: Arch
    file: str
    base: str
    requests: tuple[Request, ...]
    toolchain: Toolchain
    source: KernelTree
    jobs: Jobserver
    runtime: Runtime


def kernel_step(
    store: Store, arch: Arch, recipe: Kernel, source: Step, *, jobs: Jobserver, fragments: Sequence[Path] = OURS
) -> Step:
    """Return the step that makes an entry with the files `kernel`, `config`, `System.map` and `kernel.json`.

    `source` makes the kernel's tree, its compilers share `jobs`. The step raises UserError for wrong fragments or a
    missing compiler, before anything is fetched, and BuildError for everything that fails later.
    """

    file = arch.kernel_file(recipe.compression)

    @cache
    def requests() -> tuple[Request, ...]:
        return with_packing(compose(recipe.fragments, arch.name, fragments), arch, recipe.compression)

    @cache
    def toolchain(runtime: Runtime) -> Toolchain:
        return identify(store.cache, arch, runtime)

    def inputs(runtime: Runtime) -> dict[str, Any]:
        return {
            "target": [arch.kernel_arch, arch.cross_prefix, arch.kernel_target, file],
            "base": recipe.base,
            "request": hashlib.sha256(composed_text(requests()).encode()).hexdigest(),
            "compiler": toolchain(runtime).compiler,
            "linker": toolchain(runtime).linker,
        }

    def make(out: Path, used: Used, runtime: Runtime) -> None:
        tree = kernel_tree(used["source"])
        _build(store, Plan(arch, file, recipe.base, requests(), toolchain(runtime), tree, jobs, runtime), out)

    return Step(
        STEP,
        inputs,
        make,
        code=(__name__,),
        outputs=(KERNEL, CONFIG_COPY, SYSTEM_MAP, FACTS),
        arch=arch.name,
        uses={"source": Use(source)},
        needs=kernel_needs(arch),
        memory_mib=COMPILER_MIB * (1 + jobs.jobs),
    )


def _build(store: Store, plan: Plan, out: Path) -> None:
    """Configure, verify and compile in the workspace of this source and architecture, then copy out."""
    log = _new_log(store.cache, plan)
    with store.workspace(f"kernel/{plan.source.entry.key}-{plan.arch.name}") as held:
        start, workspace = time.monotonic(), held.path.resolve()
        make = Make(plan.arch, plan.source.path, workspace, plan.source.date, plan.runtime, held=(held.lock,))
        with step(f"configuring the kernel for {plan.arch.name}"):
            changed = configure(make, plan.base, plan.requests, plan.toolchain, log)
        config = read_dotconfig(workspace / CONFIG)
        verify(plan.requests, config, plan.source.path, plan.arch.kernel_arch)
        objects = _compile(make, plan.jobs, _expected(make, config, changed), log)
        # what make itself asks of Kconfig while it builds must not have changed what we verified
        verify(plan.requests, read_dotconfig(workspace / CONFIG), plan.source.path, plan.arch.kernel_arch)
        _copy_out(plan, make, out)
        _write_facts(out, plan, make, time.monotonic() - start, objects)


def _compile(make: Make, jobs: Jobserver, expected: int | None, log: Path) -> int:
    """Run make; return how many objects it compiled. Raises BuildError with the first real error."""
    argv = build_argv(make)
    env = {**ENVIRONMENT, **jobs.environment}
    inherited = (*make.held, *jobs.descriptors)
    with bar(f"compiling the kernel for {make.arch.name}", expected, "objects") as shown:

        def on_line(line: str) -> None:
            if is_object(line):
                shown.update()

        done = make.runtime.run(argv, env=env, log=log, on_line=on_line, check=False, pass_fds=inherited)
        objects = shown.count
    if done.returncode != 0:
        raise _failure(done, make, log)
    (make.build / FINISHED).touch()
    return objects


def _failure(done: Completed, make: Make, log: Path) -> BuildError:
    found = first_error(done.output, str(make.tree))
    if found is None:
        excerpt = "\n".join(done.output.splitlines()[-20:])
        return BuildError("the kernel did not compile", excerpt=excerpt, hint=f"the full log is {log}")
    if found.disk_full:
        return BuildError(
            f"no space left on device while compiling the kernel in {make.build}",
            excerpt=found.excerpt,
            hint=f"free some space, or set GUESTFORGE_CACHE to a larger disk; the full log is {log}",
        )
    message = f"{found.place}: {found.what}" if found.place else found.what
    return BuildError(message, excerpt=found.excerpt, hint=f"the full log is {log}")


def _expected(make: Make, config: Config, changed: bool) -> int | None:
    """Return about how many objects will be compiled; None after a whole build, where only make can tell."""
    if (make.build / FINISHED).exists():
        return None
    whole = expected_objects(make.tree, make.arch.kernel_arch, config)
    # An interrupted build goes on where it was, unless the configuration is another one by now. Kbuild writes a `.cmd`
    # file once an object is whole.
    there = 0 if changed else sum(1 for _ in make.build.rglob(".*.o.cmd"))
    return max(whole - there, 1)


def _copy_out(plan: Plan, make: Make, out: Path) -> None:
    files = {KERNEL: plan.file, CONFIG_COPY: CONFIG, SYSTEM_MAP: "System.map"}
    for name, path in files.items():
        if not (make.build / path).is_file():
            raise BuildError(f"make {make.arch.kernel_target} ended well but made no {path}")
        atomic_copy(make.build / path, out / name)


def _write_facts(out: Path, plan: Plan, make: Make, seconds: float, objects: int) -> None:
    facts = {
        "release": (make.build / RELEASE).read_text().strip(),
        "source": {"package": plan.source.entry.inputs.get("package"), "version": plan.source.version},
        "compiler": plan.toolchain.compiler,
        "linker": plan.toolchain.linker,
        "size": (out / KERNEL).stat().st_size,  # bytes
        "seconds": round(seconds, 1),
        "objects": objects,  # compiled in this run; those of an earlier one in the same workspace are not counted
    }
    (out / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def _new_log(cache_directory: Path, plan: Plan) -> Path:
    """Return an empty file for the whole output of this build; it stays when the workspace goes."""
    key = key_of(STEP, {"source": plan.source.entry.key, "request": composed_text(plan.requests), "base": plan.base})
    log = cache_directory / "logs" / f"kernel-{plan.arch.name}-{key[:12]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    return log
