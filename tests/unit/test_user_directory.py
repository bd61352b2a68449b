"""The directory in which a user calls us gives us no code: it may be /tmp, and we may be root."""

import base64
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from guestforge.arch import X86_64
from guestforge.vmm import interactive
from guestforge.vmm.plan import MachinePlan, Sockets, Vsock

REPOSITORY = Path(__file__).parents[2]
INVOKE = str(Path(sys.executable).with_name("invoke"))
OURS = ("ensurepip", "go", "guestforge", "invoke", "pip", "pydantic", "sitecustomize", "tasks", "tqdm", "usercustomize")

# Stands for Invoke: its program looks for every module of the standard library.
STUB = """
import importlib.util, os, sys
def main():
    found = {name: importlib.util.find_spec(name) for name in sys.stdlib_module_names if name != "__main__"}
    here = [name for name, spec in found.items() if spec and (spec.origin or "").startswith(os.getcwd())]
    print("in", os.getcwd(), "modules of it:", here)
    return 7
"""


@pytest.fixture
def poisoned(tmp_path):
    """A directory with a file for every module of the standard library and of ours; each says when it is run."""
    directory = tmp_path / "poisoned"
    directory.mkdir()
    ran = tmp_path / "ran"
    text = f"open({str(ran)!r}, 'a').write(__name__ + '\\n')\nraise ImportError('poison')\n"
    for name in {*sys.stdlib_module_names, *OURS}:
        (directory / f"{name}.py").write_text(text)
    return directory


def ran(poisoned):
    path = poisoned.with_name("ran")
    return path.read_text().split() if path.exists() else []


def call(argv, cwd, **env):
    return subprocess.run(argv, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=120)


def wheel(directory, name):
    """Write a package whose program `name` is the stub; return its line of a lock file."""
    files = {f"{name}.py": STUB}
    info = f"{name}-1.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name} = {name}:main\n"
    files[f"{info}/RECORD"] = "".join(f"{path},{_record(text)}\n" for path, text in files.items())
    path = directory / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
    return f"{name}==1 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def _record(text):
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(text)}"


@pytest.mark.slow
def test_the_script_runs_no_module_of_it_with_and_without_an_environment(tmp_path, poisoned):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(REPOSITORY / "invoke", checkout)
    (poisoned / "wheels").mkdir()
    (checkout / "requirements.lock").write_text(wheel(poisoned / "wheels", "invoke"))
    settings = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "wheels",
        "PATH": f"{Path(sys.executable).resolve().parent}:/bin",
    }
    argv = ["sh", "-c", 'umask 000; exec "$0"', checkout / "invoke"]
    first = call(argv, poisoned, **settings)  # makes .venv, with the user's relative path
    assert (first.returncode, ran(poisoned)) == (7, []), first.stderr
    assert first.stdout == f"in {poisoned} modules of it: []\n"
    again = call(argv, poisoned, **settings)
    assert (again.returncode, again.stderr, ran(poisoned)) == (7, "", [])
    open_to_all = [
        path for path in (checkout / ".venv").rglob("*") if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH
    ]
    assert open_to_all == []


@pytest.mark.parametrize("words", [["--list"], ["--help", "build"], ["doctor"], ["build", "--arch", "none"]])
def test_tasks_run_no_module_of_it(poisoned, words):
    done = call([INVOKE, "--search-root", str(REPOSITORY), *words], poisoned)
    assert "poison" not in done.stdout + done.stderr
    assert ran(poisoned) == []


def test_the_command_that_run_prints_runs_no_module_of_it(tmp_path, poisoned):
    plan = MachinePlan(X86_64, "tcg", None, tmp_path / "log", vsock=Vsock("builtin"))
    machine = SimpleNamespace(plan=plan, sockets=Sockets(tmp_path))
    done = call(interactive.shell_command(machine), poisoned)
    assert ran(poisoned) == []
    assert "no connection to port 1026" in done.stderr
