"""Reports as JUnit XML, the format that CI systems show test results from.

There is no standard; this is the subset that Jenkins, GitLab and GitHub actions all read:
https://github.com/testmoapp/junitxml
"""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from guestforge.check.report import CheckResult, Report
from guestforge.core.files import atomic_file

# What XML 1.0 allows (https://www.w3.org/TR/xml/#charsets); a guest's console may hold anything else.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> bytes:
    """Return a report as a JUnit document with one test suite, in UTF-8."""
    counts = {status: sum(result.status == status for result in report.checks) for status in ("fail", "skip")}
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name=_clean(f"boot {report.arch} {report.guest} {report.artifact}"),
        tests=str(len(report.checks)),
        failures=str(counts["fail"]),
        errors="0",
        skipped=str(counts["skip"]),
        time=f"{sum(result.seconds for result in report.checks):.3f}",
    )
    _properties(suite, report)
    for result in report.checks:
        _case(suite, report, result)
    ET.indent(suites)
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def write_junit(report: Report, path: Path) -> None:
    """Write a report as JUnit XML; the file is the old one or the whole new one at any moment."""
    with atomic_file(path) as file:
        file.write(junit(report))


def _properties(suite: ET.Element, report: Report) -> None:
    values = {
        "accelerator": report.accelerator,
        "accelerator_reason": report.accelerator_reason,
        "qemu": report.qemu.version,
        "qemu_reason": report.qemu.reason,
        "untrusted": "; ".join(report.qemu.untrusted),
        "storages": " ".join(report.judged_by) or "none",
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=_clean(value))


def _case(suite: ET.Element, report: Report, result: CheckResult) -> None:
    class_name = f"boot.{report.arch}.{report.guest}.{report.artifact}"
    case = ET.SubElement(
        suite, "testcase", classname=_clean(class_name), name=_clean(result.name), time=f"{result.seconds:.3f}"
    )
    if result.status == "fail":
        ET.SubElement(case, "failure", message=_clean(result.summary)).text = _clean(result.detail)
    elif result.status == "skip":
        ET.SubElement(case, "skipped", message=_clean(result.summary))
    elif result.served_by:
        ET.SubElement(case, "system-out").text = _clean(f"{result.detail}\nserved by {result.served_by}")


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)
