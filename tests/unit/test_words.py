"""What a user is told of a command line that makes no sense: an error of ours, exit code 1, and what would do."""

import subprocess
import sys
from pathlib import Path

import pytest
from invoke.program import Program

import tasks
from guestforge.cli.words import _by_every_name, check
from guestforge.core.errors import UserError
from guestforge.project.options import LISTS, OPTIONS

REPOSITORY = Path(__file__).parents[2]
INVOKE = Path(sys.executable).with_name("invoke")
TASKS = {context.name: _by_every_name(context) for context in tasks.namespace.to_contexts()}
PLACES = {context.name: [arg.name for arg in context.positional_args] for context in tasks.namespace.to_contexts()}
CORE = _by_every_name(Program().initial_context)


def invoke(*words):
    argv = [INVOKE, "--search-root", REPOSITORY, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


WRONG = [
    ("rootfs --arch x86_64 s390x", "'s390x' after rootfs is neither", "commas and no blanks"),
    ("agent --guest minimal debug", "'debug' after agent is neither", "commas"),
    ("clean store", "'store' after clean is neither", None),
    ("rootfs agnet", "'agnet' after rootfs is neither", "did you mean agent?"),
    ("rootfs --archs x", "rootfs has no option --archs", "did you mean --arch?"),
    ("rootfs --archs=x", "rootfs has no option --archs", "did you mean --arch?"),
    ("rootfs --zzz", "rootfs has no option --zzz", "--help rootfs"),
    ("rootfs -x", "rootfs has no option -x", "--help rootfs"),
    ("clean --store --nope", "clean has no option --nope", ""),
    ("clean --arch x", "clean has no option --arch", "--help clean"),
    ("rootfs --arch", "--arch wants a value", "--arch=VALUE"),
    ("rootfs --output", "--output wants a value", "--output=VALUE"),
    ("why", "why wants a STEP", "--help why"),
    ("why --arch x86_64", "why wants a STEP", "--help why"),
    ("why kernel initrd zzz", "'zzz' after initrd is neither", None),
    ("why kernel agnet", "'agnet' after why is neither", "did you mean agent?"),
    ("rootfs --arch --guest x", "--arch wants a value", "--arch=VALUE"),
    ("clean --store=3", "--store takes no value, and is given '3'", None),
    ("buidl", "there is no task 'buidl'", "did you mean build?"),
    ("zzz", "there is no task 'zzz'", "there are "),
    ("bench", "there is no task 'bench'", "bench.b"),
    ("--help buidl", "there is no task 'buidl'", "did you mean build?"),
    ("--lst", "unknown option --lst", "did you mean --list?"),
    ("-Z", "unknown option -Z", "--help"),
    ("--arch x build", "unknown option --arch", ""),
    *(
        (f"build --{name} 1 --{name}=2", f"--{name} is given twice: 1 and 2", "one value")
        for name, declared in OPTIONS.items()
        if declared.read and name not in LISTS and f"--{name}" in TASKS["build"]
    ),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG, ids=[line for line, *_ in WRONG])
def test_what_makes_no_sense_is_told_with_what_would(line, message, hint):
    with pytest.raises(UserError) as caught:
        check(line.split(), TASKS, CORE, PLACES)
    assert message in caught.value.message
    assert hint is None or hint in caught.value.hint


@pytest.mark.parametrize(
    "line",
    [
        "", "-l", "--list", "--list bench", "--help", "-h build", "--help build", "build --help", "build -h", "-V",
        "--search-root /x build", "-r/x build", "-e build --arch x", "build --arch x --arch y --artifact a",
        "build --guest=--x", "build --output a=b", "agent image", "agent --guest a image --guest b", "bench.boot",
        "build --refresh --refresh", "clean --store -- anything", "build --mirror=", "--dry build", "build --guest -n",
        "why kernel", "why --arch x86_64 kernel build", "why --help", "--help why",
    ],
)  # fmt: skip
def test_what_invoke_understands_is_let_through(line):
    check(line.split(), TASKS, CORE, PLACES)


@pytest.mark.parametrize("line", [WRONG[0][0], WRONG[4][0], WRONG[14][0], WRONG[10][0], "build --guest a --guest b"])
def test_a_user_is_told_by_us_and_not_by_invoke(line):
    done = invoke(*line.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "No idea" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_that_is_given_piece_by_piece_is_one():
    done = invoke("rootfs", "--arch", "x86_64,none", "--arch", "s390x")
    assert done.stderr.startswith("error: unknown architecture 'none'")


def test_a_shell_may_ask_how_half_a_line_goes_on():
    done = invoke("--complete", "--", "invoke", "build", "--ou")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--output" in done.stdout.split()
