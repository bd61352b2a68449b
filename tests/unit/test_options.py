"""Options: declared once, as fields of records; read once, at the door."""

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoke.context import Context

import tasks
from guestforge.arch import ARCHES, PROVEN, host
from guestforge.cli.job import job
from guestforge.core.errors import UserError
from guestforge.project.option import (
    known,
    number,
    one_of,
    option,
    path,
    read,
    size,
    some_of,
    text,
    text_or_none,
    whole,
)
from guestforge.project.options import (
    OPTIONS,
    RECORDS,
    BenchOptions,
    BuildOptions,
    CheckOptions,
    DebugOptions,
    ProofOptions,
    TerminalOptions,
)


@dataclass(frozen=True, slots=True)
class Plain:
    """A record."""

    size: int = option("how large", whole(1, 9), default=3)
    names: tuple[str, ...] = option("which", some_of(("a", "b", "c")), name="name", many=True, default=("a",))
    loud_voice: bool = option("say it loudly")


@dataclass(frozen=True, slots=True)
class Derived(Plain):
    """One that has more."""

    where: str = option("where", text, otherwise=lambda before: f"at {before['size']}", default="anywhere")
    thing: str = option("the thing", text, place=True, default="")


@pytest.fixture(autouse=True)
def signals_are_pytest_s(monkeypatch):
    monkeypatch.setattr("guestforge.cli.job.interrupt_on", lambda _: None)


def ran(function, **typed):
    """What a task's function gets of what a user typed, as Invoke hands it over."""
    task = job()(function)
    defaults = {
        name: parameter.default for name, parameter in list(inspect.signature(task.body).parameters.items())[1:]
    }
    return task.body(None, **{**defaults, **typed})


def test_a_declaration_alone_makes_an_option_of_a_task():
    seen = []

    def function(plain: Plain) -> None:
        seen.append(plain)

    task = job()(function)
    assert [(argument.name, argument.help) for argument in task.get_arguments()] == [
        ("size", "how large"), ("name", "which"), ("loud_voice", "say it loudly"),
    ]  # fmt: skip
    ran(function)
    ran(function, size="7", name=["b,c", "a"], loud_voice=True)
    assert seen == [Plain(), Plain(7, ("b", "c", "a"), loud_voice=True)]


@dataclass(frozen=True, slots=True)
class Often:
    """A record of what is given often, and of what follows."""

    env: tuple[str, ...] = option("what", text, each=True)
    words: tuple[str, ...] = option("the rest", text, rest=True)


def test_what_is_given_often_is_kept_as_it_was_given(monkeypatch):
    seen = []

    def function(often: Often) -> None:
        seen.append(often)

    task = job()(function)
    assert [argument.name for argument in task.get_arguments()] == ["env"]
    monkeypatch.setattr("sys.argv", ["invoke", "task", "--env", "A=1,2", "--", "sh", "-c", "a  b"])
    task.body(Context(remainder="sh -c a  b"), env=["A=1,2", "B=3"])
    task.body(Context(), env=[])
    assert seen == [Often(("A=1,2", "B=3"), ("sh", "-c", "a  b")), Often()]


@pytest.mark.parametrize(("text", "bytes_"), [("5", 5), ("5b", 5), ("5k", 5120), ("5KB", 5120), ("2g", 2 << 30)])
def test_sizes_are_read_as_engines_have_them(text, bytes_):
    assert size("--memory", text) == bytes_


@given(st.text())
def test_a_size_is_a_number_or_an_error(text):
    try:
        assert size("--memory", text) >= 0
    except UserError as error:
        assert "--memory" in error.message


@pytest.mark.parametrize("text", ["", "m", "-5m", "5bb", "1.5g", "5 m", "٣m"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="512m"):
        size("--memory", text)


def test_a_task_takes_several_records_and_leaves_out_what_it_is_told_to():
    def function(plain: Plain, check: CheckOptions) -> None:
        pass

    names = {argument.name for argument in job(without=("verbose", "size"))(function).get_arguments()}
    assert names == {"name", "loud_voice", "accel", "timeout", "virtio_fs_server"}


def test_a_wrong_value_ends_the_task_with_an_error_that_names_the_option(capsys):
    def function(plain: Plain) -> None:
        pytest.fail(f"it was let in: {plain}")

    with pytest.raises(SystemExit) as ended:
        ran(function, size="70")
    assert ended.value.code == 1
    assert "--size 70: not a number from 1 to 9" in capsys.readouterr().err


def test_who_gives_nothing_gets_what_follows_from_the_rest():
    assert read(Derived, {"size": "5", "thing": "x"}) == Derived(size=5, where="at 5", thing="x")
    assert Derived(size=5).where == "anywhere"
    with pytest.raises(KeyError):  # an order of fields that can't be
        read(dataclasses.make_dataclass("R", [("a", str, option("", text, otherwise=lambda before: before["b"]))]), {})


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        (text, "", ""), (text_or_none, "", None), (text_or_none, "x", "x"), (path, "/a/b", Path("/a/b")),
        (path, "b", Path.cwd() / "b"), (number(0.1, 9), "1.5", 1.5), (whole(1, 9), "9", 9), (whole(1, 9), "3.0", 3),
        (one_of(("x", "y")), "y", "y"), (some_of(("x", "y")), "y, x,y", ("y", "x")),
    ],
)  # fmt: skip
def test_a_reader_returns_what_was_meant(reader, value, expected):
    assert reader("--it", value) == expected


@pytest.mark.parametrize(
    ("reader", "value", "message"),
    [
        (number(0.1, 9), "x", "--it x: not a number from 0.1 to 9"), (number(0.1, 9), "nan", "not a number"),
        (number(0.1, 9), "0", "not a number"), (number(0.1, 9), "inf", "not a number"), (number(1, 9), "", "--it :"),
        (whole(1, 9), "1.5", "--it 1.5: not a whole number"), (whole(1, 9), "0", "not a number from 1 to 9"),
        (one_of(("x", "y")), "z", "--it z: it takes x, y"), (some_of(("x", "y")), "x,,y", "--it :"),
    ],
)  # fmt: skip
def test_a_reader_refuses_what_it_does_not_take(reader, value, message):
    with pytest.raises(UserError) as caught:
        reader("--it", value)
    assert message in caught.value.message


@given(st.text())
def test_a_number_is_within_its_bounds_or_refused(value):
    try:
        assert 1 <= whole(1, 9)("--it", value) <= 9
    except UserError as error:
        assert error.message.startswith("--it ")


def test_the_nearest_choice_is_told():
    with pytest.raises(UserError) as caught:
        known("STEP", "kernal", ("kernel", "initrd"))
    assert caught.value.hint == "did you mean kernel?"


def test_records_of_all_tasks_are_known_and_agree():
    taken = {
        parameter.annotation
        for name in tasks.namespace.task_names
        for parameter in inspect.signature(tasks.namespace[name].body.__wrapped__).parameters.values()
    }
    assert taken <= set(RECORDS)
    for record in RECORDS:
        for declared in (field.metadata["option"] for field in dataclasses.fields(record)):
            assert declared.help
    assert OPTIONS["arch"].many
    assert OPTIONS["step"].place
    assert OPTIONS["refresh"].read is None


def test_defaults_are_those_of_the_tasks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    built = read(BuildOptions, {})
    assert (built, read(DebugOptions, {}).guest) == (BuildOptions(), "")  # which one is in cli/interactive.py
    assert (built.arches, read(BenchOptions, {}).arches) == ((host(),), PROVEN)
    assert read(BuildOptions, {"arch": "arm64,s390x"}).arches == (ARCHES["aarch64"], ARCHES["s390x"])
    assert read(BuildOptions, {"mirror": ""}).mirror is None
    assert read(TerminalOptions, {}).artifact == "initrd"
    assert read(ProofOptions, {"artifact": "image"}).artifacts == ("image",)


@pytest.mark.parametrize(
    ("record", "given", "message"),
    [
        (BuildOptions, {"jobs": "0"}, "--jobs 0: not a number from 1 to 4096"),
        (BuildOptions, {"agent": "/nowhere"}, "--agent"),
        (BuildOptions, {"arch": "x86"}, "unknown architecture 'x86'"),
        (CheckOptions, {"accel": "xen"}, "--accel xen: it takes auto, kvm, tcg"),
        (CheckOptions, {"virtio-fs-server": "nfs"}, "it takes auto, virtiofsd, builtin"),
        (TerminalOptions, {"artifact": "initrd,image"}, "--artifact initrd,image: it takes initrd, image"),
    ],
)
def test_what_an_option_of_ours_does_not_take(record, given, message):
    with pytest.raises(UserError) as caught:
        read(record, given)
    assert message in caught.value.message
