"""The agent's tables of system calls are what the script makes of the golang.org/x/sys that go.mod pins."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "rootfs/agent/internal/seccomp/generate.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_numbers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_tables_are_those_that_the_script_makes(generator, tmp_path):
    generator.generate(tmp_path)
    fresh = (tmp_path / generator.OUT).read_text()
    assert SCRIPT.with_name(generator.OUT).read_text() == fresh, f"run .venv/bin/python {SCRIPT.relative_to(ROOT)}"


def unpacked(text):
    """The names and numbers of a table, as its comment says."""
    number, calls = 0, {}
    for word in text.split():
        if word.isdigit():
            number = int(word)
        else:
            calls[word] = number
            number += 1
    return calls


def test_a_table_holds_every_call_and_no_other(generator):
    tables = dict(re.findall(r"(\w+)Calls = `([^`]*)`", SCRIPT.with_name(generator.OUT).read_text()))
    assert set(tables) == set(generator.ARCHES)
    for arch, text in tables.items():
        calls = unpacked(text)
        assert len(calls) > 300
        assert calls == generator.system_calls(arch)
