"""The OCI specification of an ordinary container, as the agent's API has it.

The defaults are those that an OCI runtime's own `spec` command writes, with a container engine's set of capabilities:
https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md. Left out is the network namespace: a guest has
one network, its own, and the sandbox's containers share it. And the pid namespace, as Kata's runtimes do: an agent adds
one to each container by itself, and kata-agent can't enter a container with two of them.
"""

from collections.abc import Mapping, Sequence

from guestforge.agent.proto import oci_pb2, types_pb2

Spec = oci_pb2.Spec
Process = oci_pb2.Process
Resources = oci_pb2.LinuxResources
Interface = types_pb2.Interface
Route = types_pb2.Route

OCI_VERSION = "1.0.2"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_ENV: Mapping[str, str] = {"PATH": PATH}
CGROUP_PARENT = "/guestforge"
QUOTA_PERIOD = 100_000  # microseconds, the kernel's own

NAMESPACES = ("mount", "ipc", "uts")

# destination, type, source, options
MOUNTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),  # noqa: S108 - its place
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)

CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def process(
    args: Sequence[str],
    *,
    env: Mapping[str, str] = DEFAULT_ENV,
    cwd: str = "/",
    uid: int = 0,
    gid: int = 0,
    capabilities: Sequence[str] = CAPABILITIES,
) -> oci_pb2.Process:
    """Return a process without a terminal, for a container's specification or for exec_process."""
    return oci_pb2.Process(
        User=oci_pb2.User(UID=uid, GID=gid),
        Args=args,
        Env=[f"{name}={value}" for name, value in env.items()],
        Cwd=cwd,
        # Nothing inheritable: https://github.com/moby/moby/security/advisories/GHSA-2mm7-x5h6-5pvq
        Capabilities=oci_pb2.LinuxCapabilities(Bounding=capabilities, Effective=capabilities, Permitted=capabilities),
        NoNewPrivileges=True,
    )


def container_spec(
    container_id: str, root: str, first: oci_pb2.Process, *, readonly: bool = False, hostname: str = ""
) -> oci_pb2.Spec:
    """Return the specification of a container whose root directory is `root`, a path in the guest.

    The root directory needs the directories /proc, /dev and /sys if it is read-only. Set what else is wanted in the
    message that is returned.
    """
    return oci_pb2.Spec(
        Version=OCI_VERSION,
        Process=first,
        Root=oci_pb2.Root(Path=root, Readonly=readonly),
        Hostname=hostname,
        Mounts=[_mount(*mount) for mount in MOUNTS],
        Linux=oci_pb2.Linux(
            CgroupsPath=f"{CGROUP_PARENT}/{container_id}",
            Namespaces=[oci_pb2.LinuxNamespace(Type=kind) for kind in NAMESPACES],
            Resources=oci_pb2.LinuxResources(),
            MaskedPaths=MASKED_PATHS,
            ReadonlyPaths=READONLY_PATHS,
        ),
    )


def limits(*, memory: int = 0, processes: int = 0, quota: int = 0) -> Resources:
    """Return limits: bytes, processes, and microseconds of a processor in each QUOTA_PERIOD; 0 leaves one open."""
    return oci_pb2.LinuxResources(
        Memory=oci_pb2.LinuxMemory(Limit=memory),
        CPU=oci_pb2.LinuxCPU(Quota=quota, Period=QUOTA_PERIOD),
        Pids=oci_pb2.LinuxPids(Limit=processes),
    )


def address(ip: str, prefix: int) -> types_pb2.IPAddress:
    """Return an address of an interface."""
    return types_pb2.IPAddress(address=ip, mask=str(prefix))


def _mount(destination: str, kind: str, source: str, options: tuple[str, ...]) -> oci_pb2.Mount:
    return oci_pb2.Mount(destination=destination, source=source, type=kind, options=options)
