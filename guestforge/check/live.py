"""A real guest under check: a machine under QEMU, and its agent, driven as a container runtime does it."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from guestforge.agent.client import AgentClient
from guestforge.agent.container import Result as Ran
from guestforge.agent.errors import AgentError, Code, NotReadyError, RpcError
from guestforge.agent.metrics import guest_memory, parse_metrics
from guestforge.agent.ready import wait_ready
from guestforge.agent.storage import SHARE_TAG
from guestforge.agent.storage import Storage as AgentStorage
from guestforge.agent.tasks import TaskService
from guestforge.agent.transport import AGENT_PORT
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.engine import CheckFailure, RunEnded
from guestforge.check.guest import Ask, Details, Machine
from guestforge.check.probe import EXCERPT_LINES, OUTPUT_LIMIT, PROBE, ProbeTalk
from guestforge.check.report import Measurements, Qemu
from guestforge.check.sandbox import Sandbox
from guestforge.check.stage import Stage
from guestforge.check.storages import Storage
from guestforge.core.procfs import fields
from guestforge.core.progress import say
from guestforge.project.options import Artifact
from guestforge.vmm import machine as vmm
from guestforge.vmm.accel import Accelerator, choose_accelerator
from guestforge.vmm.argv import differs_under_tcg
from guestforge.vmm.emulator import Emulator, choose_emulator, untrusted
from guestforge.vmm.errors import MachineError
from guestforge.vmm.plan import AcceleratorName, Disk, MachinePlan, Root, Vsock
from guestforge.vmm.virtiofs import VirtioFsServer, choose_virtiofs
from guestforge.vmm.vsock import VsockChoice, choose_vsock

GRACE: Final = 0.5  # seconds that the reason for a lost connection may take to become known
ALIVE_LIMIT: Final = 2.0  # seconds in which an agent that is not hung says so
GUEST_END: Final = "guest-shutdown"  # QMP's word for a guest that powered itself off

# What our agent prints once it listens (docs/agent.md); another agent's line is not known, nor its time
_READY: Final = re.compile(r'uptime=(\d{1,9}\.\d{1,9}) .*msg="agent ready"')


@contextlib.contextmanager
def start(machine: Machine) -> Iterator["LiveGuest"]:
    """Start a machine for a check. Raises RunEnded if it does not start.

    Raises UserError if KVM or virtiofsd is asked for in vain.
    """
    arch = machine.artifacts.arch
    runtime = machine.runtime
    if runtime.find_tool(arch.qemu) is None:
        raise RunEnded("qemu-missing", f"{arch.qemu} is not installed", f"the package {arch.debian_qemu} has it")
    server = choose_virtiofs(arch, machine.options.virtio_fs_server, runtime)
    accelerator = choose_accelerator(machine.options.accel, arch, machine.artifacts.kernel, runtime)
    vsock = choose_vsock()
    plan, words = machine_plan(machine, accelerator.name, vsock.vsock)
    emulator = choose_emulator(arch, accelerator.name, runtime)
    on_line = say if machine.options.verbose else None
    running = vmm.Machine(plan, runtime, virtiofs=server, emulator=emulator, on_line=on_line)
    with contextlib.ExitStack() as stack:
        with _machine_errors():
            stack.enter_context(running)
        guest = LiveGuest(running, accelerator, emulator, server, vsock, storages=machine.storages, words=words)
        stack.callback(guest.close)
        yield guest


def guest_plan(
    artifacts: GuestArtifacts, booted: Artifact, accelerator: AcceleratorName, vsock: Vsock, console_log: Path
) -> MachinePlan:
    """Return the machine that a guest's recipe asks for, booted from one of its artifacts."""
    image = artifacts.image if booted == "image" else None
    return MachinePlan(
        arch=artifacts.arch,
        accelerator=accelerator,
        kernel=artifacts.kernel,
        console_log=console_log,
        initrd=None if image else artifacts.initrd,
        root=Root() if image else None,
        disks=(Disk(image, read_only=True),) if image else (),
        vsock=vsock,
        memory_mib=artifacts.memory_mib,
        cpus=artifacts.cpus,
        kernel_args=artifacts.kernel_args,
    )


def machine_plan(
    wanted: Machine, accelerator: AcceleratorName, vsock: Vsock
) -> tuple[MachinePlan, Mapping[str, AgentStorage]]:
    """Return the machine of a check, the guest's own and the storages under test; and these in the agent's words."""
    plan = guest_plan(wanted.artifacts, wanted.artifact, accelerator, vsock, wanted.console_log)
    words = {}
    for storage in wanted.storages:
        plan, words[storage.check] = storage.attach(plan)
    return plan, words


class LiveGuest:
    """A running machine and a client of its agent: what `guest.Guest` asks for."""

    def __init__(
        self,
        machine: vmm.Machine,
        accelerator: Accelerator,
        emulator: Emulator,
        server: VirtioFsServer,
        vsock: VsockChoice,
        *,
        storages: Sequence[Storage],
        words: Mapping[str, AgentStorage],
    ) -> None:
        self.accelerator = accelerator
        self.qemu = Qemu(
            machine.qemu_version,
            machine.argv,
            emulator.reason,
            untrusted(machine.plan, emulator),
            differs_under_tcg(machine.plan),
        )
        self.virtio_fs_server = server.describe()
        self.vsock_device = vsock.describe()
        self._machine = machine
        self._storages = storages
        self._words = words
        self._client: AgentClient | None = None

    def close(self) -> None:
        """Close the connection to the agent."""
        if self._client is not None:
            self._client.close()

    # the machine

    def wait_console(self, text: str, timeout: float) -> str | None:
        """Return the console's first line with a text, None if none came within `timeout` seconds."""
        with _machine_errors():
            try:
                return self._machine.wait_console(text, timeout)
            except MachineError as e:
                if e.kind != "timeout":
                    raise
        return None

    def console_tail(self, lines: int) -> str:
        """Return the console's last lines, without control characters."""
        return self._machine.console_tail(lines)

    def console_faults(self) -> Sequence[str]:
        """Return the lines of the whole console that no healthy guest prints."""
        return [fault.line for fault in self._machine.console_faults()]

    def measure(self) -> Measurements:
        """Measure guest and QEMU as they are now."""
        with self._agent_errors():
            memory = guest_memory(parse_metrics(self._agent.metrics()))
        host = self._machine.memory()
        ready = _READY.search(self._machine.find('msg="agent ready"') or "")
        return Measurements(
            guest_memory_total_kib=memory.total_kib,
            guest_memory_used_kib=memory.used_kib,
            qemu_rss_kib=host.rss_kib if host else None,
            qemu_pss_kib=host.pss_kib if host else None,
            agent_boot_seconds=float(ready[1]) if ready else None,
        )

    def virtio_fs_memory(self) -> int:
        """Return how many KiB the virtio-fs server has: the guest's memory, which it maps, is not counted."""
        rows = fields(Path(f"/proc/{self._machine.pids[f'share {SHARE_TAG}']}/status"))
        return sum(int(rows[name].split()[0]) for name in ("RssAnon", "RssFile"))

    # the agent

    def wait_serving(self, timeout: float) -> bool:
        """Whether the agent said SERVING within `timeout` seconds."""
        try:
            client = wait_ready(self._machine.dial(AGENT_PORT), timeout, self._machine.why_ended)
        except NotReadyError:
            with _machine_errors():
                self._machine.verify(GRACE)
            return False
        client.timeout = timeout
        self._client = client
        self._machine.on_end(client.close)  # nobody waits for an answer that can't come
        return True

    def details(self) -> Details:
        """Ask the agent for its details."""
        with self._agent_errors():
            details = self._agent.guest_details()
        return Details(details.version, details.storage_handlers)

    def create_sandbox(self) -> None:
        """Ask for a sandbox."""
        with self._agent_errors():
            self._sandbox.create()

    @contextlib.contextmanager
    def probing(self, storage: Storage, left: Callable[[], float]) -> Iterator[Ask]:
        """Have the probe run in a container on a storage, and yield what asks it."""
        with self._agent_errors():
            talk = self._sandbox.talk(storage, PROBE, left, OUTPUT_LIMIT)

        def ask(line: bytes) -> bytes | None:
            with self._agent_errors():
                return talk.ask(line)

        def end() -> Ran:
            with self._agent_errors():
                return talk.end()

        probe = ProbeTalk(ask, end)
        yield probe
        probe.end()

    def run_program(self, storage: Storage, args: Sequence[str], timeout: float, limit: int) -> Ran:
        """Run a program in a container on a storage; it may write `limit` bytes to each of its streams."""
        with self._agent_errors():
            return self._sandbox.run(storage, args, timeout, limit)

    def drive(self, proof: Callable[[Stage], str], left: Callable[[], float]) -> str:
        """Have containers driven through a task service; return the evidence."""
        stage = Stage(self._agent, TaskService(self._agent), self._storages, self._words, left)
        with self._agent_errors(), stage.cleared():
            return proof(stage)

    def release(self, storage: Storage, timeout: float) -> None:
        """Have the agent unmount a storage."""
        with self._agent_errors():
            self._sandbox.release(storage, timeout)

    def power_off(self, timeout: float) -> str:
        """Destroy the sandbox; return how the machine ended, CheckFailure unless it ended itself, and well."""
        with self._agent_errors():
            self._agent.destroy_sandbox(timeout)
            ended = self._machine.wait_end(timeout)
        if (ended.reason, ended.returncode) != (GUEST_END, 0):
            raise CheckFailure(str(ended), self.console_tail(EXCERPT_LINES))
        return str(ended)

    @cached_property
    def _sandbox(self) -> Sandbox:
        return Sandbox(self._agent, self._words)

    @property
    def _agent(self) -> AgentClient:
        assert self._client is not None, "the checks that need the agent need agent-ready"
        return self._client

    @contextlib.contextmanager
    def _agent_errors(self) -> Iterator[None]:
        """Turn agent errors into CheckFailure, or into RunEnded if the machine has died."""
        with _machine_errors():
            try:
                yield
            except AgentError as e:
                self._machine.verify(GRACE)
                if isinstance(e, RpcError) and e.code == Code.DEADLINE_EXCEEDED and not self._answers():
                    raise RunEnded("hang", f"the guest hangs: {e.message}", self.console_tail(EXCERPT_LINES)) from e
                raise CheckFailure(e.message, self.console_tail(EXCERPT_LINES)) from e

    def _answers(self) -> bool:
        """Whether the agent still does anything at all."""
        try:
            return self._agent.check_health(ALIVE_LIMIT)
        except AgentError:
            return False


@contextlib.contextmanager
def _machine_errors() -> Iterator[None]:
    """Turn MachineError into RunEnded."""
    try:
        yield
    except MachineError as e:
        raise RunEnded(e.kind, e.message, e.excerpt) from e
