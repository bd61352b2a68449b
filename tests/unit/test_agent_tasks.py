"""The verbs of a runtime's task service: what their books know, and what the agent is asked."""

import contextlib
import signal
import threading
import time

import pytest

from guestforge.agent.answers import Version
from guestforge.agent.errors import Code, RpcError
from guestforge.agent.proto import agent_pb2, health_pb2, oci_pb2
from guestforge.agent.spec import container_spec, process
from guestforge.agent.tasks import Exit, State, Status, TaskError, TaskService
from guestforge.testing.fake_agent import FakeAgent, talking_to
from guestforge.testing.ttrpc_server import Refusal


class Agent(FakeAgent):
    """Its processes run until `end` gives them a status."""

    def __init__(self):
        super().__init__()
        self._ends = {}
        self._over = False
        self._own["WaitProcess"] = self._until_ended

    def _of(self, container_id, exec_id):
        return self._ends.setdefault((container_id, exec_id), [threading.Event(), 0])

    def _until_ended(self, request):
        ended = self._of(request.container_id, request.exec_id)
        assert self._over or ended[0].wait(10)
        return agent_pb2.WaitProcessResponse(status=ended[1])

    def end(self, container_id, exec_id="", status=0):
        ended = self._of(container_id, exec_id)
        ended[1] = status
        ended[0].set()

    def release(self):
        self._over = True
        for ended in self._ends.values():
            ended[0].set()
        super().release()


@contextlib.contextmanager
def service(agent):
    with talking_to(agent) as client:
        yield TaskService(client)


def created(tasks, name="c", terminal=False):
    first = process(["/first"])
    first.Terminal = terminal
    tasks.create(name, container_spec(name, "/root", first))


def refused(code):
    return pytest.raises(TaskError) if code is None else pytest.raises(TaskError, check=lambda e: e.code == code)


def test_a_task_from_create_to_delete():
    agent = Agent()
    with service(agent) as tasks:
        created(tasks, terminal=True)
        assert tasks.state("c") == State("c", "", Status.CREATED, True, None)
        assert tasks.pids("c") == ()
        tasks.start("c")
        assert (tasks.state("c").status, tasks.pids("c")) == (Status.RUNNING, ("",))
        tasks.pause("c")
        assert tasks.state("c").status is Status.PAUSED
        tasks.resume("c")
        with refused(Code.FAILED_PRECONDITION):
            tasks.delete("c")
        tasks.kill("c", number=signal.SIGINT)
        before = time.time()
        agent.end("c", status=130)
        ended = tasks.wait("c", timeout=5)
        assert ended.status == 130
        assert before <= ended.at <= time.time()
        assert tasks.state("c").exit == ended
        assert tasks.pids("c") == ()
        with refused(Code.NOT_FOUND):
            tasks.kill("c")
        assert tasks.delete("c") == ended
        with refused(Code.NOT_FOUND):
            tasks.state("c")
        tasks.shutdown()
    assert agent.methods == [
        "CreateContainer", "StartContainer", "WaitProcess", "PauseContainer", "ResumeContainer", "SignalProcess",
        "RemoveContainer", "DestroySandbox",
    ]  # fmt: skip
    assert agent.requests("SignalProcess")[0].signal == signal.SIGINT


def test_one_more_process_is_noted_and_started():
    agent = Agent()
    with service(agent) as tasks:
        created(tasks)
        tasks.start("c")
        tasks.exec("c", "e", process(["/more"]))
        assert "ExecProcess" not in agent.methods
        assert tasks.state("c", "e").status is Status.CREATED
        tasks.start("c", "e")
        assert agent.requests("ExecProcess")[0].process.Args == ["/more"]
        assert tasks.pids("c") == ("", "e")
        tasks.kill("c", number=9, every=True)
        assert [request.exec_id for request in agent.requests("SignalProcess")] == ["", "e"]
        agent.end("c", "e", status=3)
        assert tasks.wait("c", "e", timeout=5).status == 3
        assert tasks.delete("c", "e").status == 3
        with refused(Code.NOT_FOUND):
            tasks.state("c", "e")
        tasks.exec("c", "e", process(["/again"]))  # the name is free
        assert tasks.delete("c", "e") is None
        assert "RemoveContainer" not in agent.methods


def test_a_process_is_waited_for_before_it_is_started():
    agent = Agent()
    with service(agent) as tasks:
        created(tasks)
        found = []
        waiting = [threading.Thread(target=lambda: found.append(tasks.wait("c", timeout=10))) for _ in range(3)]
        for thread in waiting:
            thread.start()
        with refused(Code.DEADLINE_EXCEEDED):
            tasks.wait("c", timeout=0.05)
        tasks.start("c")
        with refused(Code.DEADLINE_EXCEEDED):
            tasks.wait("c", timeout=0.05)
        agent.end("c", status=7)
        for thread in waiting:
            thread.join(10)
        assert [ended.status for ended in found] == [7, 7, 7]
    assert agent.methods.count("WaitProcess") == 1


def test_who_waits_for_what_is_never_started_is_told():
    with service(Agent()) as tasks:
        created(tasks)
        failures = []

        def wait():
            with refused(Code.NOT_FOUND):
                tasks.wait("c", timeout=10)
            failures.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        assert tasks.delete("c") is None
        thread.join(10)
        assert failures == [True]


def test_what_the_books_forbid():
    agent = Agent()
    with service(agent) as tasks:
        created(tasks)
        with refused(Code.ALREADY_EXISTS):
            created(tasks)
        with refused(Code.ALREADY_EXISTS):
            tasks.exec("c", "", process(["/x"]))
        tasks.start("c")
        with refused(Code.FAILED_PRECONDITION):
            tasks.start("c")
        with refused(Code.FAILED_PRECONDITION):
            tasks.shutdown()
        with refused(Code.UNIMPLEMENTED):
            tasks.checkpoint("c")
        resources = oci_pb2.LinuxResources()
        for verb in (
            tasks.start, tasks.delete, tasks.pause, tasks.resume, tasks.stats, tasks.pids, tasks.checkpoint,
            tasks.state, tasks.kill, tasks.wait, tasks.close_io, tasks.connect,
            lambda name: tasks.update(name, resources),
            lambda name: tasks.resize_pty(name, 1, 1), lambda name: tasks.exec(name, "e", process(["/x"])),
        ):  # fmt: skip
            with refused(Code.NOT_FOUND):
                verb("nothing")
    assert agent.methods == ["CreateContainer", "StartContainer", "WaitProcess"]


@pytest.mark.parametrize("method", ["CreateContainer", "StartContainer", "ExecProcess", "RemoveContainer"])
def test_what_the_agent_refuses_can_be_asked_for_again(method):
    agent = Agent()
    agent.refusals[method] = Refusal(9, "not now")

    def twice(verb):
        with contextlib.suppress(RpcError):
            return verb()
        del agent.refusals[method]
        return verb()

    with service(agent) as tasks:
        twice(lambda: created(tasks))
        twice(lambda: tasks.start("c"))
        tasks.exec("c", "e", process(["/x"]))
        twice(lambda: tasks.start("c", "e"))
        agent.end("c")
        assert tasks.wait("c", timeout=5).status == 0
        assert isinstance(twice(lambda: tasks.delete("c")), Exit)
    assert agent.refusals == {}


def test_the_rest_goes_to_the_agent():
    agent = Agent()
    agent.answers["Version"] = health_pb2.VersionCheckResponse(grpc_version="0.0.1", agent_version="2")
    with service(agent) as tasks:
        created(tasks)
        tasks.update("c", oci_pb2.LinuxResources())
        tasks.stats("c")
        tasks.resize_pty("c", 50, 132)
        tasks.close_io("c")
        assert tasks.connect("c") == Version("0.0.1", "2")
    assert agent.methods[1:] == ["UpdateContainer", "StatsContainer", "TtyWinResize", "CloseStdin", "Version"]
