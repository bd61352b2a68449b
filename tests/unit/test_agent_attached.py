"""A container's first process on our own streams, against an agent behind a real socket."""

import os
import signal
import threading
import time

import pytest
from google.protobuf.empty_pb2 import Empty

from guestforge.agent import attached as module
from guestforge.agent.attached import Attached
from guestforge.agent.errors import RpcError
from guestforge.agent.proto import agent_pb2
from guestforge.agent.spec import container_spec, process
from guestforge.agent.tasks import TaskService
from guestforge.testing.fake_agent import FakeAgent, Program, talking_to
from guestforge.testing.ttrpc_server import Refusal


@pytest.fixture
def streams(monkeypatch):
    """Pipes in the place of our standard streams: what we are typed, and what we print."""
    pipes = {name: os.pipe() for name in ("STDIN", "STDOUT", "STDERR")}
    for name, (ours, theirs) in pipes.items():
        monkeypatch.setattr(module, name, ours if name == "STDIN" else theirs)
    ends = {name: pair[1] if name == "STDIN" else pair[0] for name, pair in pipes.items()}
    yield ends
    for pair in pipes.values():
        for descriptor in pair:
            try:
                os.close(descriptor)
            except OSError:
                continue


def attach(client, *, terminal=False):
    tasks = TaskService(client)
    first = process(["/program"])
    first.Terminal = terminal
    tasks.create("c", container_spec("c", "/root", first))
    return Attached(client, tasks, "c")


def test_output_and_errors_are_copied_and_the_status_is_told(streams):
    agent = FakeAgent(Program([b"out\n", b"more\n"], [b"err\n"], status=7))
    with talking_to(agent) as client:
        os.close(streams["STDIN"])
        assert attach(client).run().status == 7
    assert os.read(streams["STDOUT"], 100) == b"out\nmore\n"
    assert os.read(streams["STDERR"], 100) == b"err\n"


class Reads(FakeAgent):
    """Its program ends when its input does."""

    def __init__(self):
        super().__init__()
        self.closed = threading.Event()
        self._own["WaitProcess"] = self._at_the_end
        self._own["CloseStdin"] = self._close

    def _close(self, _):
        self.closed.set()
        return Empty()

    def _at_the_end(self, _):
        if not self.closed.wait(60):
            raise Refusal(4, "its input did not end")
        return agent_pb2.WaitProcessResponse(status=0)


def test_input_is_passed_on_and_so_is_its_end(streams):
    agent = Reads()
    with talking_to(agent) as client:
        os.write(streams["STDIN"], b"typed")
        os.close(streams["STDIN"])
        assert attach(client).run().status == 0
    assert b"".join(request.data for request in agent.requests("WriteStdin")) == b"typed"


def test_a_program_that_has_closed_its_input_goes_on(streams):
    agent = Reads()
    agent.refusals["WriteStdin"] = Refusal(9, "write to the process: broken pipe")
    with talking_to(agent) as client:
        os.write(streams["STDIN"], b"typed")
        os.close(streams["STDIN"])
        assert attach(client).run().status == 0


def test_a_program_whose_output_nobody_takes_is_ended(streams):
    os.close(streams["STDOUT"])
    agent = FakeAgent(Program([b"out"] * 3, hangs=True))
    agent._own["WaitProcess"] = lambda _: agent._killed.wait(10) and agent_pb2.WaitProcessResponse(status=137)
    with talking_to(agent) as client:
        before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            assert attach(client).run().status == 137
        finally:
            signal.signal(signal.SIGPIPE, before)
    assert agent.requests("SignalProcess")[0].signal == signal.SIGKILL


@pytest.mark.usefixtures("streams")
def test_a_program_that_does_not_start_is_the_agents_refusal():
    agent = FakeAgent()
    agent.refusals["StartContainer"] = Refusal(5, "no such file")
    with talking_to(agent) as client, pytest.raises(RpcError, match="no such file"):
        attach(client).run()


def test_a_terminal_has_the_size_of_ours_and_follows_it(streams):
    agent = Reads()
    sizes, in_time = [(24, 80), (50, 132)], []

    def told(times):
        deadline = time.monotonic() + 10
        while len(agent.requests("TtyWinResize")) < times and time.monotonic() < deadline:
            time.sleep(0.01)
        in_time.append(time.monotonic() < deadline)

    def change():
        told(1)
        time.sleep(0.1)  # until the other thread waits for the program's end
        signal.pthread_kill(threading.get_ident(), signal.SIGWINCH)  # taken by a thread that is not Python's main one
        told(2)
        os.close(streams["STDIN"])

    with talking_to(agent) as client:
        changer = threading.Thread(target=change)
        changer.start()
        attach(client, terminal=True).run(resize=lambda: sizes[min(len(agent.requests("TtyWinResize")), 1)])
        changer.join()
    assert in_time == [True, True]
    assert [(request.row, request.column) for request in agent.requests("TtyWinResize")] == sizes
