"""`./invoke run --oci`: a container of an image, in a guest of its own, on the user's terminal.

The image's root is shared with the guest to be read only, and the container's own changes lie on top of it in the
guest's memory: they end with it.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from guestforge.agent.attached import STDIN, STDOUT, Attached
from guestforge.agent.client import AgentClient
from guestforge.agent.errors import AgentError, Code, RpcError
from guestforge.agent.ready import wait_ready
from guestforge.agent.spec import PATH, QUOTA_PERIOD, Interface, Route, Spec, address, container_spec, limits, process
from guestforge.agent.storage import SHARE_POINT, SHARE_TAG, Storage, overlay, virtio_fs
from guestforge.agent.tasks import TaskService
from guestforge.agent.transport import AGENT_PORT
from guestforge.check.artifacts import DEFAULT_TIMEOUT
from guestforge.check.storages import STORAGE_POINT
from guestforge.cli.guest import planned, prepared
from guestforge.core.errors import CheckError, UserError
from guestforge.core.progress import complain, say
from guestforge.oci.image import NEEDS, Image, find_user, open_image
from guestforge.project.options import ContainerOptions, DebugOptions, TerminalOptions
from guestforge.vmm import terminal as screen
from guestforge.vmm.machine import Machine
from guestforge.vmm.plan import MachinePlan, Network, Share

CONTAINER: Final = "run"
MIB: Final = 1 << 20
MAX_VOLUMES: Final = 8
END_LIMIT: Final = 10.0  # seconds that a guest has to end by itself
# What container engines return for a program that is not there, and for one that can't be run.
NOT_THERE, NOT_RUN = 127, 126
UPPER: Final = f"{STORAGE_POINT}upper"
ROOT: Final = f"{STORAGE_POINT}root"
RESOLV_CONF: Final = "/run/kata-containers/sandbox/resolv.conf"  # where agents keep what CreateSandbox says
# Of QEMU's own network: https://www.qemu.org/docs/master/system/devices/net.html#using-the-user-mode-network-stack
GUEST, GATEWAY, NAME_SERVER, PREFIX = "10.0.2.15", "10.0.2.2", "10.0.2.3", 24


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder of the host, and where the container has it."""

    host: Path
    target: str
    read_only: bool

    def share(self, number: int) -> Share:
        """Return how the guest gets it."""
        return Share(f"volume{number}", self.host, read_only=self.read_only)

    def storage(self, number: int) -> Storage:
        """Return how the agent is told to mount it."""
        return virtio_fs(f"{STORAGE_POINT}volume{number}", tag=f"volume{number}")


def run(built: DebugOptions, terminal: TerminalOptions, wanted: ContainerOptions) -> int:
    """Run a container of an image; return the exit code of its program.

    Raises CheckError for a guest that did not serve it, UserError for what can't be asked for.
    """
    assert wanted.oci
    volumes = tuple(map(parse_volume, wanted.volume))
    if len(volumes) > MAX_VOLUMES:
        raise UserError(f"{len(volumes)} volumes: a guest takes at most {MAX_VOLUMES}")
    pipeline = prepared(built, *NEEDS)
    image = open_image(wanted.oci, pipeline.arch, pipeline.store)
    spec = container_of(image, wanted, volumes, has_terminal=_has_terminal())
    shares = (Share(SHARE_TAG, image.root, read_only=True), *(each.share(i) for i, each in enumerate(volumes)))
    guest, _ = planned(pipeline, terminal)
    say(f"the console is kept in {guest.console_log}")
    plan = _with_container(guest, wanted, shares)
    try:
        with Machine(plan) as machine:
            return _contain(machine, spec, volumes)
    except AgentError as e:
        raise CheckError(f"the guest's agent: {e.message}", hint=f"the console is in {plan.console_log}") from e


def parse_volume(text: str) -> Volume:
    """Return HOST:CONTAINER or HOST:CONTAINER:ro. Raises UserError for what is neither, or is no folder."""
    host, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not host or not target.startswith("/") or mode not in {"", "ro", "rw"}:
        raise UserError(f"--volume {text}: it takes HOST:CONTAINER, with :ro behind where it is to be read only")
    directory = Path(host).absolute()
    if not directory.is_dir():
        raise UserError(f"--volume {text}: {directory} is no folder", hint="a guest can be given folders alone")
    return Volume(directory, target, mode == "ro")


def environment(image: Mapping[str, str], given: Sequence[str]) -> dict[str, str]:
    """Return a container's environment: the image's and what a user gives, NAME=VALUE or the NAME of one of ours."""
    found = {"PATH": PATH, **image}
    for each in given:
        name, assigned, value = each.partition("=")
        if not name or "\0" in each:
            raise UserError(f"--env {each!r}: it takes NAME=VALUE, or NAME")
        if assigned:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def container_of(image: Image, wanted: ContainerOptions, volumes: Sequence[Volume], *, has_terminal: bool) -> Spec:
    """Return the specification of a container of an image. Raises UserError where there is no program, or no user."""
    args = wanted.command or image.args
    if not args:
        raise UserError("the image names no program", hint="name one after `--`")
    user = find_user(image.root, wanted.user) if wanted.user else image.user
    first = process(args, env=environment(image.environment, wanted.env), cwd=image.cwd, uid=user.uid, gid=user.gid)
    first.User.AdditionalGids.extend(user.groups)
    first.Terminal = has_terminal
    first.NoNewPrivileges = False  # as engines have it: su and the like are the image's own affair
    if has_terminal:
        first.Env.append(f"TERM={os.environ.get('TERM', 'xterm')}")
    spec = container_spec(CONTAINER, ROOT, first)
    quota = int(wanted.cpus * QUOTA_PERIOD) if wanted.cpus else 0
    spec.Linux.Resources.MergeFrom(limits(memory=wanted.memory or 0, quota=quota))
    for number, volume in enumerate(volumes):
        options = ("rbind", "ro" if volume.read_only else "rw")
        source = volume.storage(number).mount_point
        spec.Mounts.add(destination=volume.target, source=source, type="bind", options=options)
    if wanted.network == "user":
        options = ("bind", "ro")
        spec.Mounts.add(destination="/etc/resolv.conf", source=RESOLV_CONF, type="bind", options=options)
    return spec


def _with_container(plan: MachinePlan, wanted: ContainerOptions, shares: tuple[Share, ...]) -> MachinePlan:
    """Return the guest's machine with what the container takes besides."""
    step = plan.arch.memory_step_mib
    memory = plan.memory_mib + math.ceil((wanted.memory or 0) / MIB)
    return replace(
        plan,
        shares=shares,
        network=Network() if wanted.network == "user" else None,
        memory_mib=math.ceil(memory / step) * step,
        cpus=max(plan.cpus, math.ceil(wanted.cpus or 1)),
    )


def _contain(machine: Machine, spec: Spec, volumes: Sequence[Volume]) -> int:
    limit = DEFAULT_TIMEOUT[machine.plan.accelerator]
    with wait_ready(machine.dial(AGENT_PORT), limit, machine.why_ended) as client:
        machine.on_end(client.close)
        client.timeout = limit
        network = machine.plan.network
        client.create_sandbox(CONTAINER, dns=(f"nameserver {NAME_SERVER}",) if network else ())
        if network:
            _set_up(client, network)
        tasks = TaskService(client)
        tasks.create(CONTAINER, spec, storages=tuple(_storages(volumes)))
        code = _attach(client, tasks, spec)
        with contextlib.suppress(AgentError):  # what was asked for is done
            client.destroy_sandbox(END_LIMIT)
            machine.wait_end(END_LIMIT)
        return code


def _storages(volumes: Sequence[Volume]) -> Iterator[Storage]:
    yield virtio_fs(SHARE_POINT)
    yield from overlay(ROOT, SHARE_POINT, UPPER)
    for number, volume in enumerate(volumes):
        yield volume.storage(number)


def _set_up(client: AgentClient, network: Network) -> None:
    """Give the guest's interface its address, and the way out."""
    client.update_interface(Interface(name="eth0", hwAddr=network.mac, mtu=1500, IPAddresses=[address(GUEST, PREFIX)]))
    client.update_routes([Route(gateway=GATEWAY, device="eth0")])


def _attach(client: AgentClient, tasks: TaskService, spec: Spec) -> int:
    """Have the container's program run on our streams; return its exit code, or why it did not run."""
    attached = Attached(client, tasks, CONTAINER)
    try:
        if not spec.Process.Terminal:
            return attached.run().status
        with screen.raw():
            return attached.run(resize=_size).status
    except RpcError as e:
        if e.method != "StartContainer" or e.code == Code.DEADLINE_EXCEEDED:
            raise
        complain(CheckError(f"{spec.Process.Args[0]}: {e.detail}"))
        return NOT_THERE if e.code == Code.NOT_FOUND else NOT_RUN


def _has_terminal() -> bool:
    return os.isatty(STDIN) and os.isatty(STDOUT)


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return size.lines, size.columns
