"""`./invoke doctor`: a line for each thing that a build or a check needs, and the remedy where it is missing."""

from collections.abc import Iterable, Iterator

from guestforge.host.findings import Finding, findings
from guestforge.host.packages import command
from guestforge.project.options import TargetOptions


def run_doctor(targets: TargetOptions) -> int:
    """Print what was found; return 1 when something needed is missing, else 0."""
    found = tuple(findings(targets.arches, targets.project))
    print(report(found))
    return exit_code(found)


def report(found: Iterable[Finding]) -> str:
    """Return the lines for people."""
    found = tuple(found)
    width = max(len(finding.name) for finding in found)
    lines = [_line(finding, width) for finding in found]
    return "\n".join([*lines, _summary(found), *_all_at_once(found)])


def _summary(found: tuple[Finding, ...]) -> str:
    lacking = [finding for finding in found if finding.state == "missing"]
    if not lacking:
        return "nothing that is needed is missing"
    verb = "install" if all(finding.needs for finding in lacking) else "see to"
    return f"{len(lacking)} missing: {verb} these before you build"


def exit_code(found: Iterable[Finding]) -> int:
    """Return the exit code that the findings deserve."""
    return 1 if any(finding.state == "missing" for finding in found) else 0


def _all_at_once(found: Iterable[Finding]) -> Iterator[str]:
    """Yield the one command that installs every package that is missing, where there is any."""
    if needs := [need for finding in found for need in finding.needs]:
        yield f"install all with: {command(needs)}"


def _line(finding: Finding, width: int) -> str:
    remedy = f"  -> {finding.remedy}" if finding.remedy else ""
    return f"{finding.state:7}  {finding.area:8} {finding.name:{width}}  {finding.found}{remedy}"
