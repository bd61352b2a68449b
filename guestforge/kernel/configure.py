"""Makes a build directory's .config from a request, and leaves it untouched where nothing changed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guestforge.core.errors import BuildError
from guestforge.core.files import atomic_file, digest_file
from guestforge.kernel.fragment import Request, composed_text
from guestforge.kernel.make import NEXT_CONFIG, Make, configure_argv, configure_environment
from guestforge.kernel.toolchain import Toolchain

CONFIG = ".config"
REQUEST = "request.config"
STAMP = "configured.json"

# Bases that take a request in before Kconfig gives the rest its defaults: what comes out is complete, and olddefconfig
# would change nothing in it but cost a pass of 1.7 s. The others are made first, have the request laid over them and
# are completed by olddefconfig: Kconfig reads KCONFIG_ALLCONFIG for its all*config targets only.
TAKES_REQUEST = frozenset({"allnoconfig"})


def configure(make: Make, base: str, requests: tuple[Request, ...], toolchain: Toolchain, log: Path) -> bool:
    """Bring `.config` up to date with a request; return whether Kconfig had to run. Raises BuildError.

    Nothing runs where request, base and toolchain are those of the last time and nobody touched the result.
    """
    text = composed_text(requests)
    inputs = {"base": base, "request": hashlib.sha256(text.encode()).hexdigest(), "tools": asdict(toolchain),
              "tree": str(make.tree)}  # fmt: skip
    config = make.build / CONFIG
    if _stamp(make.build) == _facts(inputs, config):
        return False
    request = make.build / REQUEST
    _write(request, text)
    (make.build / NEXT_CONFIG).unlink(missing_ok=True)
    _kconfig(make, base, request, log)
    if base not in TAKES_REQUEST:
        with (make.build / NEXT_CONFIG).open("a") as file:
            file.write(text)  # of two lines about an option Kconfig takes the last
        _kconfig(make, "olddefconfig", request, log)
    _write(config, (make.build / NEXT_CONFIG).read_text())
    (make.build / NEXT_CONFIG).unlink()
    _write(make.build / STAMP, json.dumps(_facts(inputs, config)))
    return True


def _kconfig(make: Make, target: str, request: Path, log: Path) -> None:
    argv = configure_argv(make, target)
    done = make.runtime.run(argv, env=configure_environment(request), log=log, check=False, pass_fds=make.held)
    if done.returncode != 0:
        excerpt = "\n".join(done.output.splitlines()[-20:])
        raise BuildError(f"make {target} failed", excerpt=excerpt, hint=f"the full log is {log}")


def _facts(inputs: Mapping[str, Any], config: Path) -> dict[str, Any]:
    return {**inputs, "config": digest_file(config) if config.is_file() else None}


def _stamp(build: Path) -> object:
    try:
        return json.loads((build / STAMP).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a file unless it has that content: its date is what make goes by."""
    if not path.is_file() or path.read_text() != text:
        with atomic_file(path, "w") as file:
            file.write(text)
