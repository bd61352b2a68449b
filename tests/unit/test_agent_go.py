"""The Go agent's own tests, and that its programs compile for every architecture of the table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.arch import ARCHES
from guestforge.project.layout import AGENT_SOURCES

BIN = Path(sys.executable).parent


def go(*args, **env):
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # the tests build the probe with `go` of their PATH
    done = subprocess.run(
        [BIN / "go", *args],
        cwd=AGENT_SOURCES,
        env=os.environ | {"PATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_agents_own_tests_pass_and_no_race_is_found():
    """The seeds of the fuzz targets among them. The race detector is C: it needs the compiler that kernels need too."""
    code, output = go("test", "-race", "./...", CGO_ENABLED="1")
    assert code == 0, output


@pytest.mark.slow
def test_a_thousand_rounds_leave_nothing():
    code, output = go("test", "-v", "-run", "^TestRounds", "./internal/server", GUESTFORGE_ROUNDS="1000")
    assert code == 0, output
    if os.getuid() == 0:
        assert len(re.findall(r"\b1000 rounds in ", output)) == 5, output


@pytest.mark.slow
def test_the_agents_module_names_what_it_needs_as_go_would():
    code, output = go("mod", "tidy", "-diff")
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_the_agent_has_no_faults_that_vet_finds(arch):
    code, output = go("vet", "./...", GOARCH=arch.go, CGO_ENABLED="0")
    assert code == 0, output
