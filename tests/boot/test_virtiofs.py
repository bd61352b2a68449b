"""Guests whose share is served by each virtio-fs server."""

import json

import pytest

from guestforge.arch import host
from guestforge.check.options import CheckOptions
from guestforge.errors import UserError
from guestforge.pipeline import Options, Pipeline
from guestforge.vmm.virtiofsd import find_virtiofsd, why_not

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]

OURS = "guestforge virtio-fs"


@pytest.fixture
def check(tmp_path, booted):
    """Check the initrd of an architecture with a server; the report, all of whose checks have passed."""

    def run(arch, server):
        report = Pipeline(arch, Options(output=tmp_path)).check(
            "initrd", CheckOptions(virtio_fs_server=server), again=True
        )
        booted(report, f"--virtio-fs-server {server}")
        assert {result.name: result.detail for result in report.checks if result.status != "pass"} == {}
        written = json.loads((tmp_path / arch.name / "minimal" / "check" / "initrd" / "report.json").read_text())
        assert [row["served_by"] for row in written["checks"] if row["name"] == "virtio-fs"] == [
            report.served_by("virtio-fs")
        ]
        return report

    return run


def test_our_own_server_serves_every_architecture(check, arch_row):
    assert check(arch_row, "builtin").served_by("virtio-fs") == f"{OURS} (asked for)"


def test_by_default_a_guest_gets_the_server_that_speaks_its_interface(check, arch_row):
    served = check(arch_row, "auto").served_by("virtio-fs")
    if doubt := why_not(arch_row):
        assert served == f"{OURS} ({doubt})"
    else:
        assert served.startswith("virtiofsd (")


def test_virtiofsd_serves_guests_of_its_own_interface(check):
    if find_virtiofsd() is None:
        with pytest.raises(UserError, match="no virtiofsd"):
            check(host(), "virtiofsd")
    else:
        assert check(host(), "virtiofsd").served_by("virtio-fs").endswith("; asked for)")
