"""What a Go program was made from, by the program itself: the linker writes Go's version and all modules into it.

That is kept beside the program when it is made, with the licence of each module, for then the modules' files are there.
https://go.dev/ref/mod#go-version-m
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from guestforge.core.errors import BuildError
from guestforge.core.files import read_regular
from guestforge.core.runtime import Runtime
from guestforge.rootfs.licences import LIMIT, licence_of

BUILD: Final = "build.json"
MAX_OUTPUT: Final = 1024 * 1024  # characters of what Go says of a program; of the agent it says 5,000
# How a licence is called in a module's top directory. Where there are several it is not known which holds for what.
_LICENCE: Final = re.compile(r"(licen[cs]e|copying|unlicense)([.-].*)?", re.IGNORECASE)


def go_program() -> Path:
    """Return where the Go toolchain's command is."""
    return Path(sys.executable).with_name("go")


def write_build(program: Path, out: Path, modules: Path | None, runtime: Runtime) -> None:
    """Write BUILD into a directory: the version of Go and the modules of a program.

    `modules` is Go's module cache, which holds the licences; it is None for a program that somebody else made. Of one
    that is none of Go's nothing is known. Raises BuildError for one of ours that does not say what it is made of.
    """
    argv = [str(go_program()), "version", "-m", "-json", str(program)]
    done = runtime.run(argv, env={"GOTOOLCHAIN": "local"}, check=False)
    text = done.output if done.returncode == 0 and len(done.output) <= MAX_OUTPUT else ""
    try:
        info = json.loads(text) if text else {}
        build = {"go": info.get("GoVersion", "").removeprefix("go"), "modules": list(_modules(info, modules))}
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise BuildError(f"{program}: Go says what nobody understands of what it was made from: {e}") from e
    if modules and not build["go"]:
        raise BuildError(f"{program} does not say what it was made from", excerpt=done.output[-2000:])
    (out / BUILD).write_text(json.dumps(build, indent=1, sort_keys=True) + "\n")


def _modules(info: Mapping[str, Any], modules: Path | None) -> Iterator[dict[str, str | None]]:
    """Yield the modules besides the program's own; what stands in the place of one is what was compiled."""
    for each in info.get("Deps") or ():
        used = each.get("Replace") or each
        path, version = used["Path"], used.get("Version", "").replace("(devel)", "")
        licence = _licence(modules / f"{escaped(path)}@{escaped(version)}") if modules else None
        yield {"path": path, "version": version, "sum": used.get("Sum"), "licence": licence}


def escaped(text: str) -> str:
    """Return a module's path or version as file names in the cache have it: `!a` for each `A`."""
    return re.sub(r"[A-Z]", lambda found: "!" + found[0].lower(), text)


def _licence(module: Path) -> str | None:
    """Return SPDX's name of the licence of an unpacked module, None where that is not known."""
    try:
        (path,) = (path for path in module.iterdir() if _LICENCE.fullmatch(path.name))
        text = read_regular(path, LIMIT)
    except (ValueError, OSError):
        return None
    return licence_of(text.decode("utf-8", "replace")) if text is not None else None
