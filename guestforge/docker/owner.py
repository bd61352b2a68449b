"""Whose a container or a volume is, so that what a killed run left at an engine can be told from what others use."""

import contextlib
import os
from pathlib import Path
from typing import Final

from docker.errors import APIError, NotFound

from guestforge.core.progress import say
from guestforge.docker.engine import Engine, engine_errors

LABEL: Final = "dev.guestforge.run"
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")  # random(4): one that no other machine and no other boot has


def ours(pid: int | None = None) -> str:
    """Return the label of what a process of this machine makes, by default ours; nothing for no process.

    It has the machine's boot, the process's id, and when that was started, in ticks.
    """
    pid = os.getpid() if pid is None else pid
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{BOOT.read_text().strip()} {pid} {stat.rpartition(')')[2].split()[19]}"  # proc_pid_stat(5): field 22


def remove_orphans(engine: Engine) -> None:
    """Remove the containers and volumes of runs that were killed, and with them what still ran there."""
    client = engine.client
    with engine_errors(engine, "looking for containers of before"):
        for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
            if _is_orphan(container.labels[LABEL]):
                say(f"removing the container of a run that was killed: {container.short_id}")
                with contextlib.suppress(NotFound):
                    container.remove(force=True)
        for volume in client.volumes.list(filters={"label": LABEL}):
            if _is_orphan((volume.attrs.get("Labels") or {}).get(LABEL, "")):
                with contextlib.suppress(APIError):  # somebody else was quicker
                    volume.remove()


def _is_orphan(label: str) -> bool:
    """Whether it is of a process of this boot of this machine that is gone: of others nobody here knows."""
    boot, pid, *_ = (*label.split(), "", "")
    return boot == BOOT.read_text().strip() and pid.isdecimal() and ours(int(pid)) != label
