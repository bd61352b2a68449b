"""Guests whose share is served by each virtio-fs server."""

import json
import os
import stat
import threading
import time

import pytest
from rig import Faults

from guestforge.agent.container import run_container
from guestforge.agent.storage import Storage
from guestforge.arch import PROVEN, host
from guestforge.check import fixtures, live
from guestforge.check.run import check_artifact
from guestforge.check.storages import STORAGE_POINT
from guestforge.conform.run import PLACE, PROGRAM
from guestforge.core.errors import UserError
from guestforge.core.runtime import HOST
from guestforge.pipeline import Pipeline
from guestforge.project.options import BuildOptions, CheckOptions
from guestforge.rootfs.tree import Directory, File
from guestforge.vmm.virtiofsd import find_virtiofsd, why_not

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]

OURS = "guestforge virtio-fs"
FOREIGN = next(arch for arch in PROVEN if why_not(arch))  # a guest that is ours by default


@pytest.fixture
def check(tmp_path, booted):
    """Check the initrd of an architecture with a server; the report, all of whose checks have passed."""

    def run(arch, server):
        one = Pipeline(arch, BuildOptions(output=tmp_path))
        options = CheckOptions(virtio_fs_server=server)
        report = check_artifact(
            live.start, one.guest_artifacts(), "initrd", one.output / "check" / "initrd", options, runtime=HOST
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


LAYERS = """package main

import "os"

func main() {
	for _, err := range []error{
		os.Remove("/removed"),
		os.RemoveAll("/replaced"),
		os.Mkdir("/replaced", 0o755),
		os.WriteFile("/replaced/new", []byte("new"), 0o644),
		os.WriteFile("/changed", []byte("changed"), 0o644),
	} {
		if err != nil {
			panic(err)
		}
	}
	entries, err := os.ReadDir("/replaced")
	if err != nil || len(entries) != 1 {
		panic("what was below the old one shows through")
	}
}
"""


def test_an_overlay_may_have_its_upper_layer_on_a_share(started, arch_row, go_program):
    """What it says of a directory that takes another's place is an attribute, `trusted.`, which no server may set."""
    program = go_program(arch_row, LAYERS)
    lower = [
        *(Directory(f"/lower{path}") for path in fixtures.MOUNT_POINTS),
        File("/lower/layers", program, 0o755),
        Directory("/lower/replaced"),
        *(File(f"/lower/{name}", b"old", 0o644) for name in ("removed", "changed", "replaced/old")),
    ]
    with started(arch_row, "builtin", more=[Directory("/lower"), *lower]) as (guest, storages):
        share = storages["virtio-fs"]
        guest.run_program(share, [PROGRAM, "execute", PLACE, "1"], 60, 4096)  # the share is mounted from now on
        layers = {name: f"{share.mount_point}{name}" for name in ("lower", "upper", "work")}
        options = tuple(f"{name}dir={path}" for name, path in layers.items())
        root = f"{STORAGE_POINT}overlay"
        overlay = Storage("overlayfs", "overlay", "overlay", root, options)
        ran = run_container(guest._agent, "overlay", root, ["/layers"], storages=[overlay])
        assert (ran.status, ran.stderr) == (0, b"")
        upper = share.place / "upper"
        assert {path.name for path in upper.iterdir()} >= {"removed", "replaced", "changed"}
        assert stat.S_ISCHR((upper / "removed").lstat().st_mode)  # a whiteout
        assert os.getxattr(upper / "replaced", "user.virtiofs.trusted.overlay.opaque") == b"y"
        assert (upper / "changed").read_text() == "changed"
        assert (share.place / "lower" / "changed").read_text() == "old"


def test_a_guest_that_is_paused_again_and_again_loses_no_request(rig):
    """Each pause stops the rings, with requests under way, and each `cont` starts them where they were."""
    pauses = []

    def hiccups(guest):
        def run():
            for _ in range(8):
                guest._machine.execute("stop")
                time.sleep(0.1)
                guest._machine.execute("cont")
                pauses.append(time.monotonic())
                time.sleep(0.2)

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)

    threads = []
    outcome = rig.check(FOREIGN.name, faults=Faults(at_probe=("virtio-fs", hiccups)))
    for thread in threads:
        thread.join()
    assert outcome.failures == []
    assert outcome.report.served_by("virtio-fs").startswith(OURS)
    assert len(pauses) == 8
