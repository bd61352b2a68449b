"""What a container of ours may do: a user's build and its guests in it, as little as that takes."""

import json
import os
from collections.abc import Iterable
from typing import Any, Final

# System calls that nothing of a build and of QEMU makes, and that user namespaces open to whoever has one: for the
# namespaces that our devices lock themselves in, the engine's own list (no unshare, no mount) can't be had.
DENIED: Final = (
    "acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "delete_module", "finit_module", "fsopen",
    "init_module", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie",
    "move_pages", "open_by_handle_at", "perf_event_open", "process_vm_readv", "process_vm_writev", "ptrace",
    "quotactl", "quotactl_fd", "reboot", "request_key", "setdomainname", "sethostname", "settimeofday", "swapoff",
    "swapon", "syslog", "userfaultfd", "vhangup",
)  # fmt: skip
DEVICES: Final = ("/dev/kvm", "/dev/vhost-vsock")


def confinement(engine_options: Iterable[str], *, is_podman: bool, network: bool) -> dict[str, Any]:
    """Return the settings of a container that say what it may do, for an engine with these security options.

    Its root file system is read only, and it has none of the capabilities of an engine's containers. Two exceptions are
    root's: its apt gives downloads to a user without rights, and it may be root in a user namespace of its own only
    with SETFCAP (user_namespaces(7)).
    """
    # Podman takes the name of a file of its own machine, and its usual filter has no mounts either
    options = ["no-new-privileges", f"seccomp={'unconfined' if is_podman else _profile()}"]
    named = " ".join(engine_options)
    if "apparmor" in named:
        options.append("apparmor=unconfined")  # the engine's own profile has no mounts
    if "selinux" in named:
        options.append("label=disable")  # files of the host keep their labels
    return {
        "read_only": True,
        "security_opt": options,
        "devices": [f"{device}:{device}:rw" for device in DEVICES if os.access(device, os.R_OK | os.W_OK)],
        **_capabilities(network=network),
    }


def _profile() -> str:
    """Return the profile, https://docs.docker.com/engine/security/seccomp."""
    rule = {"names": list(DENIED), "action": "SCMP_ACT_ERRNO"}
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})


def _capabilities(*, network: bool) -> dict[str, list[str]]:
    if os.geteuid() != 0:
        return {"cap_drop": ["ALL"]}
    return {} if network else {"cap_drop": ["ALL"], "cap_add": ["SETFCAP"]}
