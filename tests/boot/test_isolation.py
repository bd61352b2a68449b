"""Containers that do harm in a real guest, where the agent is PID 1, and what others notice of it."""

import time

import pytest

from guestforge.agent.errors import AgentError
from guestforge.agent.spec import container_spec, process
from guestforge.arch import X86_64
from guestforge.rootfs.agent import PROBE
from guestforge.rootfs.tree import File

pytestmark = [pytest.mark.boot, pytest.mark.timeout(180)]

LAUNCH = 1  # seconds that a process may take to its program
ROUNDS = 8


def test_a_container_that_stops_whatever_enters_it_holds_nobody_up(started, pipeline):
    """It stops a newcomer before it has become a program of its own, when whoever forked it still waits for that."""
    one = pipeline(X86_64.name)
    probe = File("/probe", one.entry(one.steps.probe).file(PROBE), 0o755)
    limits = (f"agent.launch_process_timeout={LAUNCH}",)
    with started(X86_64, "builtin", kernel_args=limits, more=[probe]) as (guest, storages):
        disk, agent = storages["virtio-blk"], guest._agent
        guest.run_program(disk, ["/probe", "exit", "0"], 30, 4096)  # the disk is mounted from now on
        for name, args in (("bad", ["stop-others", "120"]), ("good", ["sleep", "120"])):
            agent.create_container(name, container_spec(name, disk.mount_point, process(["/probe", *args])))
            agent.start_container(name)
        failed = 0
        for number in range(ROUNDS):
            begun = time.monotonic()
            try:
                agent.exec_process("bad", f"e{number}", process(["/probe", "exit", "0"]), timeout=20)
            except AgentError:
                failed += 1
            assert time.monotonic() - begun < LAUNCH + 3
            begun = time.monotonic()
            agent.exec_process("good", f"e{number}", process(["/probe", "exit", "7"]), timeout=20)
            assert agent.wait_process("good", f"e{number}", timeout=20) == 7
            assert time.monotonic() - begun < 5
        assert failed, "nothing was stopped: this shows nothing"
        for name in ("bad", "good"):
            agent.remove_container(name, 10)
        guest.power_off(30)
