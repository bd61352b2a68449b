"""Steps as a graph: their order, their needs, their keys, and what would become of them."""

import pytest

from guestforge.cli.why import explain
from guestforge.core.errors import BuildError, UserError
from guestforge.core.graph import Evaluation, needs_of, walk
from guestforge.core.need import Need
from guestforge.core.step import Step, Use
from guestforge.core.store import Store
from guestforge.testing.fake_steps import fake_step

HERE, GONE = Need("dash", tool="sh"), Need("p", tool="no-such-program")


class Made:
    """A chain of steps `source`, `middle`, `last` that count how often they are made."""

    def __init__(self, content=b"1", *, value=1, reads=("file",), needs=()):
        self.made = []
        self.source = self.step("source", content)
        uses = {"source": Use(self.source, reads)}
        self.middle = self.step("middle", b"same", value=value, uses=uses, needs=needs)
        self.last = self.step("last", b"end", uses={"middle": Use(self.middle, ("file",))})

    def step(self, name, content, *, value=None, uses=None, needs=()):
        def make(out, used, _runtime):
            assert set(used) == set(uses or ())
            self.made.append(name)
            (out / "file").write_bytes(content)

        inputs = {"content": content.hex(), "nested": {"value": value}}
        return Step(name, lambda _: inputs, make, (), ("file",), "arch", "", uses or {}, needs)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def test_each_step_comes_once_and_after_what_it_uses():
    chain = Made()
    other = fake_step("other", {"x": b""}, uses={"a": Use(chain.source), "b": Use(chain.middle)})
    found = walk(other, chain.last)
    assert sorted(step.name for step in found) == ["last", "middle", "other", "source"]
    for step in found:
        assert all(found.index(use.step) < found.index(step) for use in step.uses.values())


def test_needs_are_those_of_all_steps_each_once():
    chain = Made(needs=(HERE, GONE))
    assert needs_of(chain.source) == ()
    assert needs_of(chain.last, chain.middle) == (HERE, GONE)


def test_a_step_is_made_once_and_found_the_next_time(store):
    for expected in (["source", "middle", "last"], []):
        chain, evaluation = Made(), Evaluation(store)
        assert evaluation.entry(chain.last) is evaluation.entry(chain.last)
        assert chain.made == expected


def test_what_comes_out_the_same_leaves_the_rest_as_it_is(store):
    Evaluation(store).entry(Made().last)
    chain = Made(value=2)  # another key of `middle`, which makes the same file
    entry = Evaluation(store).entry(chain.last)
    assert chain.made == ["middle"]
    assert entry.reused


def test_a_step_reads_its_files_or_all_of_an_entry(store):
    Evaluation(store).entry(Made(reads=()).last)
    chain = Made(b"2", reads=())
    Evaluation(store).entry(chain.last)
    assert chain.made == ["source", "middle"]


def test_a_change_of_code_is_another_key(store, monkeypatch):
    Evaluation(store).entry(Made().source)
    monkeypatch.setattr("guestforge.core.graph.code_digest", lambda *_: "another")
    chain = Made()
    Evaluation(store).entry(chain.source)
    assert chain.made == ["source"]


def test_mistakes_are_told_of_before_anything_is_made(store):
    chain = Made()

    def wrong(_):
        raise UserError("a wrong recipe")

    bad = Step("bad", wrong, lambda *_: None, (), uses={"last": Use(chain.last)})
    for attempt in (Evaluation(store).entry, Evaluation(store).judge):
        with pytest.raises(UserError, match="a wrong recipe"):
            attempt(bad)
    assert chain.made == []


@pytest.mark.parametrize("attempt", ["entry", "remade"])
def test_a_step_that_leaves_out_a_file_is_an_error_and_nothing_is_kept(store, attempt):
    step = Step("short", lambda _: {}, lambda out, *_: (out / "one").touch(), (), ("one", "two"))
    with pytest.raises(BuildError, match="short: the step ended well but made no two"):
        getattr(Evaluation(store), attempt)(step)
    assert not list((store.cache / "store").glob("short/*"))
    assert list((store.cache / "tmp").iterdir()) == []


def test_a_step_is_made_again_when_that_is_asked_for(store):
    chain = Made()
    first = Evaluation(store).remade(chain.last)
    assert not first.reused
    again = Evaluation(store).remade(chain.last)
    assert chain.made == ["source", "middle", "last", "last"]
    assert again.reused
    assert again.path == first.path


# What would be


def states(store, *targets):
    return {prospect.step.name: prospect.state for prospect in Evaluation(store).outlook(*targets)}


def test_outlook_makes_nothing_and_says_what_the_store_has(store):
    chain = Made()
    assert states(store, chain.last) == {"source": "made", "middle": "depends", "last": "depends"}
    assert chain.made == []
    Evaluation(store).entry(chain.middle)
    assert states(store, chain.last) == {"source": "reused", "middle": "reused", "last": "made"}
    assert states(store, Made(value=2).last) == {"source": "reused", "middle": "made", "last": "depends"}
    assert [(each.step.title, each.missing) for each in Evaluation(store).outlook(Made(value=2).last)] == [
        ("arch source", ()), ("arch middle", ()), ("arch last", ("arch middle",)),
    ]  # fmt: skip


def test_a_step_depends_on_what_the_host_lacks(store):
    chain = Made(needs=(HERE, GONE))
    Evaluation(store).entry(chain.source)
    (prospect,) = (each for each in Evaluation(store).outlook(chain.middle) if each.step is chain.middle)
    assert (prospect.state, prospect.missing) == ("depends", ("p",))


def test_why_names_the_values_that_changed(store):
    def lines(step):
        return list(explain(Evaluation(store), step))

    assert lines(Made().middle) == ["arch middle: its key is not known before there is arch source"]
    Evaluation(store).entry(Made().source)
    assert lines(Made().middle) == ["arch middle: the store has no entry of it yet"]
    entry = Evaluation(store).entry(Made().middle)
    assert lines(Made().middle) == [f"arch middle: nothing has changed, its entry is {entry.path}"]
    assert lines(Made(value=2).middle) == [f"arch middle: changed since {entry.path}", "  nested.value: 1 -> 2"]


def test_why_names_code_that_changed_came_and_went(store, monkeypatch):
    before = {"guestforge.a": "1", "guestforge.b": "1"}
    after = {"guestforge.a": "2", "guestforge.c": "1"}
    for module in ("guestforge.core.graph", "guestforge.cli.why"):
        monkeypatch.setattr(f"{module}.code_files", lambda *_: now)
    monkeypatch.setattr("guestforge.core.graph.code_digest", lambda *_: str(now))
    now = before
    entry = Evaluation(store).entry(Made().source)
    now = after
    assert list(explain(Evaluation(store), Made().source)) == [
        f"arch source: changed since {entry.path}",
        "  code: guestforge.a has changed",
        "  code: guestforge.b is gone",
        "  code: guestforge.c is new",
    ]


def test_why_compares_with_the_newest_entry_of_the_same_step(store):
    entries = [Evaluation(store).entry(Made(value=value).middle) for value in (1, 2)]
    (first,) = (line for line in explain(Evaluation(store), Made(value=3).middle) if "changed since" in line)
    assert first.endswith(str(entries[1].path))
