"""Architectures spread over engines: each takes the next one that is left, and what a lost one had goes back."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from guestforge.core.errors import BuildError, GuestforgeError
from guestforge.core.progress import complain, say
from guestforge.docker.engine import Engine, EngineGoneError

Work = TypeVar("Work")


def spread(
    work: Sequence[Work],
    engines: Sequence[Engine],
    do: Callable[[Engine, Work], int],
    name: Callable[[Work], str],
    stop: Callable[[], None],
) -> int:
    """Do each piece of work at one of the engines, one at a time at each; return the worst exit code.

    An engine that goes away is asked for nothing more, and another one does what it had. `stop` ends what runs, and is
    called on KeyboardInterrupt. Raises BuildError once no engine is left.
    """
    left, idle, codes = list(work), list(engines), [0]
    running: dict[Future[int], tuple[Engine, Work]] = {}
    with ThreadPoolExecutor(len(engines)) as pool:
        try:
            while left or running:
                while left and idle:
                    engine, piece = idle.pop(0), left.pop(0)
                    say(f"{name(piece)}: at {engine.address}")
                    running[pool.submit(do, engine, piece)] = (engine, piece)
                if not running:
                    raise BuildError(
                        f"no engine is left for {', '.join(map(name, left))}",
                        hint="start one, and then the same command again: what was built is kept",
                    )
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    engine, piece = running.pop(future)
                    try:
                        codes.append(future.result())
                        idle.append(engine)
                    except EngineGoneError as e:
                        complain(e, name(piece))
                        left.insert(0, piece)
                    except GuestforgeError as e:
                        complain(e, name(piece))
                        codes.append(e.exit_code)
                        idle.append(engine)
        except BaseException:
            stop()
            raise
    return max(codes)
