"""`./invoke release`, `release.verify` and `release.keygen`: what they are asked for, and what they say."""

import getpass
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.core.errors import GuestforgeError, UserError
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.progress import say
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.pipeline import Pipeline
from guestforge.project.option import options_of
from guestforge.project.options import BuildOptions, CheckOptions, KeygenOptions, ReleaseOptions, VerifyOptions
from guestforge.project.template import find_template
from guestforge.release.bundle import make_bundle, source_date_epoch
from guestforge.release.checkouts import find_checkouts
from guestforge.release.facts import told_of_proven, told_of_release
from guestforge.release.notes import TEMPLATE, changes, render
from guestforge.release.proven import NotProvenError, Proven, find_proven
from guestforge.release.sign import Judge, Signer, load_public_key, load_secret_key, make_key
from guestforge.release.verify import Verified, verify_release

RELEASES: Final = "releases"  # below the project's output


def release(asked: ReleaseOptions, checks: CheckOptions) -> None:
    """Make a release of guests that were built and checked before, and sign it where there is a key."""
    epoch = source_date_epoch()
    key = load_secret_key(asked.key, _ask)
    place = asked.output or asked.project.output / RELEASES / asked.version
    before = told_of_release(asked.since) if asked.since else None
    proven = _all_proven(asked, checks)
    template = find_template(TEMPLATE, asked.project.recipes)

    def notes(sizes: Sequence[int]) -> bytes:
        guests = [told_of_proven(guest, size) for guest, size in zip(proven, sizes, strict=True)]
        return render(template, guests, changes(before, guests) if before else None)

    checkouts = find_checkouts(asked.project.root, HOST)
    new = make_bundle(proven, place, epoch, Signer(key, epoch) if key else None, checkouts, notes=notes)
    say(f"{place}: {'' if new else 'there already, with the same content: '}{_listed(proven)}")
    if not key:
        say("it is not signed: --key names a key, and `./invoke release.keygen FILE` makes one")


def verify(asked: VerifyOptions) -> None:
    """Verify a release, and say what of it that does not show."""
    print(describe(verify_release(asked.directory, judge_of(asked.public_key))))


def keygen(asked: KeygenOptions) -> None:
    """Make a pair of keys."""
    name = make_key(asked.file, _ask)
    say(f"{asked.file}: the secret key {name}; whoever has it signs as you")
    say(f"{asked.file}.pub: the public key, which those who verify need")


def _ask(prompt: str) -> str | None:
    """Ask for a password on the terminal; None where there is none."""
    return getpass.getpass(prompt) if sys.stdin.isatty() else None


def _all_proven(asked: ReleaseOptions, checks: CheckOptions) -> list[Proven]:
    """Return what is released; raises UserError with all that keeps any of it from being so, and what would mend it."""
    evaluation, jobs = Evaluation(Store()), Jobserver(1)
    proven, problems, mended = [], [], []
    for guest in asked.guests:
        for arch in asked.arches:
            built = _built(asked, guest, (arch,))
            try:
                proven.append(find_proven(Pipeline(arch, built, evaluation, jobs), checks, asked.version))
            except NotProvenError as e:
                problems += [f"{arch.name} {guest}: {problem}" for problem in e.problems]
                mended.append((guest, arch))
            except GuestforgeError as e:
                problems.append(f"{arch.name} {guest}: {e.message}")
    if problems:
        raise UserError(
            "nothing is released: not all of it was built and has passed its checks",
            excerpt="\n".join(problems),
            hint="; ".join(_commands(asked, checks, mended)) or None,
        )
    return proven


def _built(asked: ReleaseOptions, guest: str, arches: tuple[Arch, ...]) -> BuildOptions:
    return BuildOptions(
        project=asked.project,
        arches=arches,
        guest=guest,
        mirror=asked.mirror,
        agent=asked.agent,
        output=asked.project.output,
    )


def _commands(asked: ReleaseOptions, checks: CheckOptions, mended: Iterable[tuple[str, Arch]]) -> Iterator[str]:
    """Yield the command that builds and checks what is missing, one a guest."""
    for guest, found in groupby(mended, itemgetter(0)):
        yield build_command(_built(asked, guest, tuple(arch for _, arch in found)), checks)


def build_command(built: BuildOptions, checks: CheckOptions) -> str:
    """Return the command that builds and checks guests."""
    words = [f"--arch {','.join(arch.name for arch in built.arches)}", f"--guest {built.guest}"]
    words += [f"--{name} {value}" for name in ("mirror", "agent") if (value := getattr(built, name))]
    words += [
        f"--{options_of(CheckOptions)[field.name].name} {value}"
        for field in fields(CheckOptions)
        if field.name != "verbose" and (value := getattr(checks, field.name)) != field.default
    ]
    return f"./invoke build {' '.join(words)}"


def _listed(proven: Iterable[Proven]) -> str:
    return ", ".join(f"{one.guest} for {one.arch}" for one in proven)


def judge_of(public_key: Path | None) -> Judge:
    """Return who judges signatures: with the key in a file, where there is one."""
    return Judge(load_public_key(public_key) if public_key else None)


def describe(found: Verified) -> str:
    """Return what a verified release is, and what of it was not checked."""
    lines = [
        f"{name}: {manifest.guest} for {manifest.arch}, {len(manifest.files()) + 1} files, all checks passed"
        for name, manifest in found.manifests.items()
    ]
    if found.signed_by:
        lines.append(f"signed with key {found.signed_by}")
    return "\n".join([*lines, *(f"not checked: {line}" for line in found.unchecked)])
