"""A talk, line by line, with a program in a container of an agent that a test plays."""

import pytest

from guestforge.agent.client import AgentClient
from guestforge.agent.container import Result
from guestforge.agent.dialogue import Dialogue
from guestforge.agent.errors import OutputLimitError, ProtocolError, RpcError
from guestforge.testing.fake_agent import FakeAgent, Program, talking_to
from guestforge.testing.ttrpc_server import Refusal


def talk(client: AgentClient, limit: int = 1000) -> Dialogue:
    return Dialogue(client, "c", lambda: 5.0, limit)


def said(agent: FakeAgent) -> bytes:
    return b"".join(request.data for request in agent.requests("WriteStdin"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("pieces", [[b"one\ntwo\n"], [b"on", b"e\nt", b"wo", b"\n"], [b"one\n", b"two\n"]])
def test_a_line_is_an_answer_however_it_comes(pieces: list[bytes]) -> None:
    agent = FakeAgent(Program(list(pieces)))
    with talking_to(agent) as client:
        dialogue = talk(client)
        assert [dialogue.ask(b"1"), dialogue.ask(b"2")] == [b"one", b"two"]
        assert dialogue.end() == Result(0, b"", b"")
    assert said(agent) == b"1\n2\n"
    assert agent.methods.index("CloseStdin") > max(i for i, name in enumerate(agent.methods) if name == "WriteStdin")


def test_output_that_ends_is_no_answer() -> None:
    with talking_to(FakeAgent(Program([b"hal"], stderr=[b"killed"], status=137))) as client:
        dialogue = talk(client)
        assert dialogue.ask(b"1") is None
        assert dialogue.end() == Result(137, b"hal", b"killed")


BROKEN = Refusal(9, "write pipe: broken pipe")  # FAILED_PRECONDITION


def test_a_program_that_ended_before_it_was_asked_gives_no_answer() -> None:
    agent = FakeAgent(Program([b"hal"], stderr=[b"killed"], status=137))
    agent.refusals["WriteStdin"] = BROKEN
    with talking_to(agent) as client:
        dialogue = talk(client)
        assert dialogue.ask(b"1") is None
        assert dialogue.end() == Result(137, b"hal", b"killed")


def test_a_program_that_has_only_closed_its_input_can_not_be_asked() -> None:
    agent = FakeAgent(Program(hangs=True))
    agent.refusals["WriteStdin"] = BROKEN
    with talking_to(agent) as client, pytest.raises(RpcError, match=r"WriteStdin: .*broken pipe"):
        Dialogue(client, "c", lambda: 0.3, 1000).ask(b"1")


def test_what_is_said_beyond_the_answers_is_kept_for_the_end() -> None:
    with talking_to(FakeAgent(Program([b"one\nmore", b" of it"]))) as client:
        dialogue = talk(client)
        assert dialogue.ask(b"1") == b"one"
        assert dialogue.end() == Result(0, b"more of it", b"")


def test_a_line_has_a_limit() -> None:
    with talking_to(FakeAgent(Program([b"x" * 600, b"x" * 600]))) as client, pytest.raises(OutputLimitError):
        talk(client).ask(b"1")


def test_what_a_program_takes_in_parts_is_written_in_parts() -> None:
    agent = FakeAgent(Program([b"one\n"], takes=3))
    with talking_to(agent) as client:
        assert talk(client).ask(b"12345678") == b"one"
    assert [request.data for request in agent.requests("WriteStdin")] == [  # type: ignore[attr-defined]
        b"12345678\n", b"45678\n", b"78\n",
    ]  # fmt: skip


def test_an_agent_that_writes_nothing_is_malformed() -> None:
    with talking_to(FakeAgent(Program([b"one\n"], takes=0))) as client, pytest.raises(ProtocolError):
        talk(client).ask(b"1")
