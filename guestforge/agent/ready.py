"""Waiting for a booting guest's agent."""

import time

from guestforge.agent.client import AgentClient
from guestforge.agent.errors import AgentError, NotReadyError
from guestforge.agent.proto.health_pb2 import HealthCheckResponse
from guestforge.agent.transport import SLICE, Dial, GiveUp
from guestforge.agent.ttrpc import Connection

INTERVAL = 0.02  # seconds between attempts
# Seconds of one attempt. A guest that got our request to connect before its driver was up may have lost it, and one
# that accepted may have hung: another attempt is cheap, so no single one gets the whole time.
DIAL_LIMIT = 2.0
ANSWER_LIMIT = 10.0


def wait_ready(dial: Dial, timeout: float, give_up: GiveUp | None = None) -> AgentClient:
    """Return a client of the agent as soon as Health.Check says SERVING; it is the caller's to close.

    `timeout` in seconds. `give_up` is asked every 20 ms, and says why there is nothing to wait for any more.
    Raises NotReadyError when it does, or when the time is over.
    """
    deadline = time.monotonic() + timeout
    last = "there was none"
    while True:
        if give_up is not None and (why := give_up()):
            raise NotReadyError(f"the agent can't get ready: {why}")
        left = deadline - time.monotonic()
        if left <= 0:
            raise NotReadyError(f"the agent did not say SERVING within {timeout:g} s; the last attempt: {last}")
        try:
            return _attempt(dial, left, give_up)
        except AgentError as e:
            last = e.message
        time.sleep(min(INTERVAL, left))


def _attempt(dial: Dial, left: float, give_up: GiveUp | None) -> AgentClient:
    client = AgentClient(Connection(dial(timeout=min(left, DIAL_LIMIT), give_up=give_up)))
    try:
        _require_serving(client, min(left, ANSWER_LIMIT), give_up)
    except BaseException:
        client.close()
        raise
    return client


def _require_serving(client: AgentClient, limit: float, give_up: GiveUp | None) -> None:
    call = client.begin_check(limit)
    while not call.wait(SLICE):
        if give_up is not None and (why := give_up()):
            raise AgentError(why)
    if (status := call.result().status) != HealthCheckResponse.SERVING:
        raise AgentError(f"Health.Check said {status}, not SERVING")
