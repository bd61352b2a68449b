"""The installation of what steps need of the host's distribution and what is missing there.

Only packages are installed: the host's sources, keys and configuration of apt are its administrator's.
"""

import contextlib
import os
import re
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Final

from guestforge.core.cache import open_cache, user_cache
from guestforge.core.errors import UserError
from guestforge.core.locks import locked
from guestforge.core.need import Need, missing
from guestforge.core.progress import Bar, bar, say
from guestforge.core.run import Completed, failure, find_tool, run
from guestforge.core.signals import heeded

SWITCH: Final = "GUESTFORGE_INSTALL"  # `never`: say what is missing, install nothing
LOCK: Final = "install.lock"  # below the cache: one installation of ours at a time
LOCK_TIMEOUT: Final = 300  # seconds that apt-get waits for another apt-get or dpkg

INSTALL: Final = ("apt-get", "install", "--no-install-recommends")
UNATTENDED: Final = ("-y", "-q", "-o", f"DPkg::Lock::Timeout={LOCK_TIMEOUT}", "-o", "Dpkg::Use-Pty=0")
ENVIRONMENT: Final = {"DEBIAN_FRONTEND": "noninteractive"}

# What apt-get says where its lists are missing or older than the mirror's files, and after an interrupted dpkg.
_STALE: Final = re.compile(r"Unable to locate package|has no installation candidate|Failed to fetch .* 404 ")
_INTERRUPTED: Final = re.compile(r"dpkg was interrupted")
# What apt-get writes for people. Its machine-readable progress can't be had on standard output: it would close that for
# dpkg, and the first maintainer's script that prints a line would fail.
_PLAN: Final = re.compile(r"(?P<upgraded>[0-9]+) upgraded, (?P<installed>[0-9]+) newly installed")
_STAGES: Final = ("Get:", "Unpacking ", "Setting up ")  # each package passes through all of them


def ensure(needs: Iterable[Need]) -> None:
    """Install what is missing of the needs, where we may: as root, or by a sudo that asks for no password.

    Raises UserError with the one command that would do it where we may not, and where it failed.
    """
    needs = tuple(needs)
    if not missing(needs):
        return
    with _installing():
        if absent := missing(needs):  # another run of ours may have installed it meanwhile
            _install(absent)
            if left := missing(needs):
                raise UserError(f"{_names(left)} still missing, though apt-get installed {' '.join(_packages(left))}")


def command(needs: Iterable[Need]) -> str:
    """Return the command that a person would type to install the packages of the needs."""
    words = shlex.join([*INSTALL, *_packages(needs)])
    if os.geteuid() == 0:
        return words
    return f"sudo {words}" if find_tool("sudo") else f"su -c {shlex.quote(words)}"


def _packages(needs: Iterable[Need]) -> list[str]:
    return list(dict.fromkeys(need.package for need in needs))


def _names(needs: Iterable[Need]) -> str:
    names = list(dict.fromkeys(need.name for need in needs))
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _install(absent: tuple[Need, ...]) -> None:
    if not find_tool("apt-get"):
        raise UserError(
            f"{_names(absent)} missing, and this host has no apt-get",
            hint=f"install what has them; Debian's packages are {' '.join(_packages(absent))}",
        )
    prefix = _authority()
    if prefix is None:
        raise UserError(f"{_names(absent)} missing on this host", hint=f"install with: {command(absent)}")
    packages = _packages(absent)
    say(f"installing {' '.join(packages)}: {_names(absent)} missing on this host")
    done = _apt(prefix, packages)
    if done.returncode != 0 and _INTERRUPTED.search(done.output):
        run([*prefix, "dpkg", "--configure", "-a"], env=ENVIRONMENT, error=UserError)
        done = _apt(prefix, packages)
    if done.returncode != 0 and _STALE.search(done.output):
        run([*prefix, "apt-get", "update", "-q"], env=ENVIRONMENT, error=UserError)
        done = _apt(prefix, packages)
    if done.returncode != 0:
        raise failure(done, error=UserError)


def _authority() -> list[str] | None:
    """Return what goes before a command that needs root; None where we may not become root."""
    setting = os.environ.get(SWITCH, "")
    if setting not in ("", "auto", "never"):
        raise UserError(f"{SWITCH}={setting}: not auto or never")
    if setting == "never":
        return None
    if os.geteuid() == 0:
        return []
    if find_tool("sudo") and run(["sudo", "-n", "true"], check=False).returncode == 0:
        proxies = [f"{name}={os.environ[name]}" for name in ("http_proxy", "https_proxy") if name in os.environ]
        # sudo empties the environment
        return ["sudo", "-n", "env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), *proxies]
    return None


def _apt(prefix: list[str], packages: list[str]) -> Completed:
    with bar("installing packages", 100, "%") as shown, _uninterrupted():
        argv = [*prefix, *INSTALL, *UNATTENDED, *packages]
        done = run(argv, env=ENVIRONMENT, check=False, on_line=Percent(shown))
        if done.returncode == 0:
            shown.update(100 - shown.count)  # packages that were in apt's cache passed one stage less
        return done


class Percent:
    """Moves a bar of 100 as the lines of `apt-get install` say how far it is."""

    def __init__(self, shown: Bar) -> None:
        self._shown = shown
        self._stages = 0  # passed, of all packages
        self._packages = 0

    def __call__(self, line: str) -> None:
        """Take the next line."""
        if plan := _PLAN.match(line):
            self._packages = int(plan["upgraded"]) + int(plan["installed"])
        elif self._packages and line.startswith(_STAGES):
            self._stages += 1
            reached = min(100 * self._stages // (self._packages * len(_STAGES)), 100)
            self._shown.update(reached - self._shown.count)


@contextlib.contextmanager
def _installing() -> Iterator[None]:
    """Hold the lock that lets one installation of this user run at a time: `apt-get update` waits for nobody."""
    with locked(open_cache(user_cache()) / LOCK):
        yield


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and the like to the end: an apt-get killed halfway leaves a system that refuses the next one."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where Python delivers no signal anyway
        return
    caught: list[int] = []

    def later(number: int, _: FrameType | None) -> None:
        if not caught:
            say("stopping once the packages are installed: a package system must not be left halfway")
        caught.append(number)

    before = {number: signal.signal(number, later) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])
