"""What is committed of the agent's interface, in Go and in Python, is what the script makes of the .proto files."""

import importlib.util
from pathlib import Path

import pytest

from guestforge.agent.proto import agent_pb2, health_pb2

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "rootfs/agent/proto/generate.py"


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("generated")
    load_generator().generate(root)
    return root


def relative_files(root):
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_committed_files_are_those_that_the_script_makes(generated):
    paths = relative_files(generated)
    assert len(paths) == 4 + 4 * 2
    stale = [str(path) for path in paths if (ROOT / path).read_bytes() != (generated / path).read_bytes()]
    assert stale == [], f"run .venv/bin/python {SCRIPT.relative_to(ROOT)}"


@pytest.mark.slow
def test_no_go_file_is_left_of_a_proto_that_is_gone(generated):
    api = Path("rootfs/agent/internal/api")
    assert relative_files(ROOT / api) == relative_files(generated / api)


def test_every_method_of_the_reference_is_declared():
    assert len(agent_pb2.DESCRIPTOR.services_by_name["AgentService"].methods) == 42
    assert sorted(health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name) == ["Check", "Version"]
