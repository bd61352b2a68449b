"""Steps made side by side, in processes of their own: what runs when, what fails with what, and how it all ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from guestforge.core import events, schedule
from guestforge.core.errors import BuildError, UserError
from guestforge.core.events import Advanced, Began, Complained, Ended, Finished, Said
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.progress import bar, say
from guestforge.core.schedule import Goal, Rules, Schedule
from guestforge.core.step import NotKeptError, Step, Use
from guestforge.core.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]


class House:
    """Steps that note in a file when they begin and end."""

    def __init__(self, directory):
        self.store = Store(directory / "cache")
        self.log = directory / "log"
        self.seen = []

    def step(self, name, *uses, work=lambda: None, seconds=0.0, **more):
        def make(out, used, _runtime):
            assert set(used) == {use.name for use in uses}
            self.note(f"+{name}")
            time.sleep(seconds)
            work()
            (out / "file").write_text(name)
            self.note(f"-{name}")

        used = {use.name: Use(use, ("file",)) for use in uses}
        return Step(name, lambda _: {"name": name}, make, (), ("file",), uses=used, **more)

    def note(self, text):
        with self.log.open("a") as file:
            file.write(f"{text}\n")

    def noted(self):
        return self.log.read_text().split() if self.log.exists() else []

    def run(self, *steps, jobs=4, then=lambda _: None, **rules):
        self.goal = Goal("goal", steps, then)
        self.schedule = Schedule(Evaluation(self.store), [self.goal], Rules(Jobserver(jobs), **rules))
        with events.shown_by(self.seen.append):
            self.schedule.run()
        return {what.title: (ended.state, ended.why) for what, ended in self.schedule.ended.items()}

    def of(self, kind):
        return [event for event in self.seen if isinstance(event, kind)]


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def at_once(noted):
    running, most = 0, 0
    for word in noted:
        running += 1 if word[0] == "+" else -1
        most = max(most, running)
    return most


def fail():
    raise BuildError("it broke", hint="mend it", excerpt="line 1")


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_step_runs_after_what_it_uses_and_beside_what_it_does_not(house):
    first = house.step("first")
    left, right = house.step("left", first, seconds=0.3), house.step("right", first, seconds=0.3)
    ended = house.run(house.step("last", left, right))
    noted = house.noted()
    assert noted.index("-first") < min(noted.index("+left"), noted.index("+right"))
    assert max(noted.index("-left"), noted.index("-right")) < noted.index("+last")
    assert at_once(noted) == 2
    assert {state for state, _ in ended.values()} == {"built"}


def test_what_the_store_has_is_reused_without_a_process(house):
    house.run(house.step("one"))
    ended = house.run(house.step("one"))
    assert ended == {"one": ("reused", ""), "goal": ("reused", "")}
    assert house.noted() == ["+one", "-one"]
    assert len(house.of(Began)) == 1


def test_a_step_is_made_again_where_that_is_asked_for(house):
    house.run(house.step("one"))
    again = house.step("one")
    assert house.run(again, again=frozenset({again}))["one"] == ("built", "")
    assert house.noted() == ["+one", "-one"] * 2


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_more_run_at_once_than_there_are_jobs(house, jobs):
    house.run(*(house.step(f"s{number}", seconds=0.1) for number in range(5)), jobs=jobs)
    assert at_once(house.noted()) == jobs


def test_what_waits_for_the_network_needs_no_token(house):
    house.run(*(house.step(f"s{number}", seconds=0.3, weight="network") for number in range(3)), jobs=1)
    assert at_once(house.noted()) == 3


def test_programs_share_the_memory(house, monkeypatch):
    monkeypatch.setattr(schedule, "available_mib", lambda: 1000)
    house.run(*(house.step(f"s{number}", seconds=0.1, memory_mib=400) for number in range(4)))
    assert at_once(house.noted()) == 2


def test_what_needs_more_than_there_is_runs_alone(house, monkeypatch):
    monkeypatch.setattr(schedule, "available_mib", lambda: 1000)
    house.run(*(house.step(f"s{number}", seconds=0.1, memory_mib=4000) for number in range(2)))
    assert at_once(house.noted()) == 1
    assert len(house.noted()) == 4


def test_available_memory_is_the_kernels_figure():
    assert 0 < schedule.available_mib() < 1 << 30


def test_a_failure_leaves_out_what_uses_it_and_nothing_else(house):
    bad = house.step("bad", work=fail)
    after = house.step("after", house.step("between", bad))
    ended = house.run(after, house.step("other", seconds=0.2))
    assert ended["bad"] == ("failed", "it broke")
    assert ended["between"] == ended["after"] == ("skipped", "without bad")
    assert ended["other"] == ("built", "")
    assert ended["goal"] == ("skipped", "without after")
    (told,) = house.of(Complained)
    assert (told.subject, told.exit_code) == ("bad", 2)
    assert told.report == "error: it broke\n\n    line 1\n\nhint: mend it"
    assert [type(error) for error in house.schedule.errors] == [BuildError]


def test_the_first_failure_ends_all_where_that_is_asked_for(house):
    def wait_long():
        try:
            time.sleep(60)
        finally:
            house.note("cleaned")

    begun = time.monotonic()
    steps = house.step("long", work=wait_long), house.step("bad", work=fail, seconds=0.3), house.step("late")
    ended = house.run(*steps, jobs=2, fail_fast=True)
    assert time.monotonic() - begun < 10
    assert ended["long"] == ended["late"] == ("skipped", "stopped: it broke")
    assert "cleaned" in house.noted()
    assert "+late" not in house.noted()


def test_a_mistake_in_what_a_step_reads_is_its_failure(house):
    def wrong(_):
        raise UserError("a wrong recipe")

    ended = house.run(Step("bad", wrong, lambda *_: None, ()), house.step("other"))
    assert ended["bad"] == ("failed", "a wrong recipe")
    assert ended["other"] == ("built", "")


def test_a_process_that_is_killed_is_a_failure_and_gives_its_token_back(house):
    ended = house.run(house.step("bad", work=kill_itself), house.step("other"), house.step("more"), jobs=2)
    assert ended["bad"] == ("failed", "the process that worked on it was killed by SIGKILL")
    assert ended["more"] == ended["other"] == ("built", "")


def test_a_fault_of_our_own_says_where_it_is(house):
    with pytest.raises(ZeroDivisionError) as caught:
        house.run(house.step("bad", work=lambda: 1 // 0))
    assert "test_schedule.py" in "".join(caught.value.__notes__)


def test_a_step_whose_result_is_not_kept_has_done_its_work(house):
    def work():
        raise NotKeptError("without virtio-9p")

    assert house.run(house.step("proof", work=work, success="passed"))["proof"] == ("passed", "without virtio-9p")
    assert not list((house.store.cache / "store").glob("proof/*"))


def test_a_goal_is_reached_as_soon_as_its_steps_are_there(house):
    quick, slow = house.step("quick"), house.step("slow", seconds=0.5)
    goals = [Goal("output", (quick,), lambda _: house.note("reached")), Goal("all", (slow,))]
    Schedule(Evaluation(house.store), goals, Rules(Jobserver(4))).run()
    assert house.noted().index("reached") < house.noted().index("-slow")


def test_a_goal_that_cannot_be_reached_is_a_failure(house):
    def full(_):
        raise BuildError("no space left")

    ended = house.run(house.step("one"), then=full)
    assert ended["goal"] == ("failed", "no space left")
    assert not house.schedule.made(house.goal)
    (finished,) = house.of(Finished)
    assert [row.step for row in finished.steps] == ["one", "goal"]


def test_what_a_step_tells_is_told_here(house):
    def work():
        say("hello")
        with bar("counting", 3, "objects") as shown:
            shown.update(3)

    house.run(house.step("one", work=work))
    assert [event.text for event in house.of(Said)] == ["hello"]
    last = house.of(Advanced)[-1]
    assert (last.label, last.count, last.total, last.over) == ("counting", 3, 3, True)
    assert last.bar[0] != os.getpid()
    assert [event.step for event in house.of(Began)] == ["one"]
    assert [event.state for event in house.of(Ended)][:1] == ["built"]


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_of_a_step_may_tell_things_too(house, threads):
    def tell(number):
        for line in range(200):
            say(f"{number} {line}")

    def work():
        running = [threading.Thread(target=tell, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    house.run(house.step("one", work=work))
    assert len(house.of(Said)) == 200 * threads


def test_an_interruption_ends_every_process_and_each_cleans_up(house):
    def work():
        house.note(f"pid{os.getpid()}")
        try:
            time.sleep(60)
        finally:
            house.note("cleaned")

    def interrupt():
        while sum(word.startswith("pid") for word in house.noted()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        house.run(house.step("one", work=work), house.step("two", work=work))
    assert house.noted().count("cleaned") == 2
    pids = [word[3:] for word in house.noted() if word.startswith("pid")]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list((house.store.cache / "tmp").iterdir()) == []


def test_an_interruption_just_after_a_block_was_entered_leaves_it(house):
    """What the error still holds when a process ends is closed by nobody else."""

    def work():
        block = house.store.temporary("left")
        block.__enter__()
        assert list((house.store.cache / "tmp").glob("left.*"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        house.run(house.step("one", work=work))
    assert list((house.store.cache / "tmp").iterdir()) == []


def test_an_interruption_while_a_process_is_forked_ends_it_too(tmp_path):
    """An interruption that came before the schedule had the new process at hand would leave it to be killed."""
    code = f"""
import os, signal, time
from pathlib import Path
from guestforge.core import worker
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.schedule import Goal, Rules, Schedule
from guestforge.core.step import Step
from guestforge.core.store import Store
store = Store(Path({str(tmp_path)!r}))

def make(out, used, runtime):
    time.sleep(60)

def interrupt():
    while not list(Path({str(tmp_path)!r}).glob("tmp/one.*")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

os.register_at_fork(after_in_parent=interrupt)
step = Step("one", lambda _: {{}}, make, (), ("file",))
try:
    Schedule(Evaluation(store), [Goal("goal", (step,))], Rules(Jobserver(1))).run()
except KeyboardInterrupt:
    print("interrupted", os.listdir({str(tmp_path / "tmp")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=REPOSITORY)
    assert (done.stdout, done.stderr) == ("interrupted []\n", "")


def test_a_process_that_does_not_end_is_killed(house, monkeypatch):
    monkeypatch.setattr("guestforge.core.worker.PATIENCE", 0.3)

    def deaf():
        house.note(f"pid{os.getpid()}")
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                house.note("no")

    def interrupt():
        while not any(word.startswith("pid") for word in house.noted()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        house.run(house.step("one", work=deaf))
    pid = next(word[3:] for word in house.noted() if word.startswith("pid"))
    assert not Path(f"/proc/{pid}").exists()


def test_a_goal_is_told_whether_the_store_had_all_of_it(house):
    told = []
    house.run(house.step("one"), then=told.append)
    house.run(house.step("one"), then=told.append)
    house.run(house.step("one"), house.step("two"), then=told.append)
    assert told == [False, True, False]
