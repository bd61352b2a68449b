"""A report as people read it: a table of the checks, and one line that says it all."""

from guestforge.check.report import Report

DETAIL_WIDTH = 72  # longer details are cut in the table; the report has them whole
COLUMNS = ("check", "status", "seconds", "detail", "served by")


def table(report: Report) -> str:
    """Return the table of a report: a row a check, then the machine that it ran on."""
    rows = [COLUMNS, *_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [_line(row, widths) for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:], rule, *_totals(report)])


def boot_line(report: Report) -> str:
    """Return the one line that tells of a boot: which, on what, served by what, how long, and the verdict."""
    server = report.served_by("virtio-fs") or "none"
    done = report.phases.done
    seconds = f"{done:.1f} s" if done is not None else "not started"
    return printable(
        f"boot: {report.arch} {report.artifact} accelerator={report.accelerator} ({report.accelerator_reason}) "
        f"virtio-fs={server} {seconds}: {report.verdict}{_without(report)}"
    )


def printable(text: str) -> str:
    """Return a text with everything that could steer a terminal made visible: it may come from a guest."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _rows(report: Report) -> list[tuple[str, ...]]:
    return [
        (
            result.name,
            result.status,
            f"{result.seconds:7.2f}",
            _cut(printable(result.summary)),
            printable(result.served_by or ""),
        )
        for result in report.checks
    ]


def _totals(report: Report) -> list[str]:
    passed = sum(result.status == "pass" for result in report.checks)
    return [
        f"{report.name} of {report.guest}: {report.verdict}, {passed} of {len(report.checks)} checks passed",
        printable(f"judged by the storages: {', '.join(report.judged_by) or 'none'}{_without(report)}"),
        printable(f"accelerator: {report.accelerator} ({report.accelerator_reason})"),
        printable(f"virtio-fs server: {report.served_by('virtio-fs') or 'none'}"),
        printable(f"emulator: QEMU {report.qemu.version} ({report.qemu.reason})"),
        *(printable(f"not to be trusted under {report.accelerator}: {what}") for what in report.qemu.untrusted),
    ]


def _without(report: Report) -> str:
    """What is not asked of this guest: a verdict that goes without a check says so."""
    names = "; ".join(f"{result.name}: {result.summary}" for result in report.left_out)
    return f" without {names}" if names else ""


def _cut(text: str) -> str:
    return text if len(text) <= DETAIL_WIDTH else text[: DETAIL_WIDTH - 3] + "..."


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
