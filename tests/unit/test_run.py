import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from guestforge.core.errors import BuildError, CheckError, UserError
from guestforge.core.run import environment, find_tool, run, spawn
from tests.unit.taken import LIMIT, heeds_what_another_takes

REPOSITORY = Path(__file__).resolve().parents[2]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid, seconds=5.0):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


def test_output_of_both_streams_in_order():
    assert run(["sh", "-c", "echo a; echo b >&2; echo c"]).output == "a\nb\nc\n"


def test_failure_shows_last_lines_and_the_command():
    with pytest.raises(BuildError, match="sh ended with exit code 3") as caught:
        run(["sh", "-c", "echo why; exit 3"])
    assert caught.value.excerpt == "why"
    assert "sh -c 'echo why; exit 3'" in caught.value.hint


def test_death_by_a_signal_is_named():
    with pytest.raises(BuildError, match="was killed by SIGKILL"):
        run(["sh", "-c", "kill -9 $$"])


def test_failure_can_be_another_error_or_none():
    with pytest.raises(CheckError):
        run(["false"], error=CheckError)
    assert run(["false"], check=False).returncode == 1


def test_program_that_is_not_installed_is_the_users_to_mend():
    with pytest.raises(UserError, match="no-such-tool is not installed"):
        run(["no-such-tool"])


def test_lines_arrive_whole_and_the_log_has_all(tmp_path):
    lines = []
    log = tmp_path / "log"
    run(["sh", "-c", "printf 'one\\ntw'; sleep 0.05; printf 'o\\r\\nthree'"], on_line=lines.append, log=log)
    assert lines == ["one", "two", "three"]
    assert log.read_bytes() == b"one\ntwo\r\nthree"


def test_bytes_that_are_no_utf8_do_not_matter():
    assert run(["printf", "\\377x"]).output == "�x"


def test_large_input_and_output_at_once():
    data = b"x" * 3_000_000
    assert len(run(["cat"], input=data).output) == len(data)


def test_program_that_does_not_read_its_input():
    assert run(["true"], input=b"x" * 1_000_000).returncode == 0


def test_no_input_is_end_of_file():
    assert run(["cat"]).output == ""


def test_time_limit_kills_the_whole_group():
    start = time.monotonic()
    seen = []
    with pytest.raises(BuildError, match=r"did not finish within 0\.3 s"):
        run(["sh", "-c", "sleep 60 & echo $!; wait"], timeout=0.3, on_line=seen.append)
    assert time.monotonic() - start < 10
    assert wait_until_gone(int(seen[0]))


def test_leaving_the_block_ends_the_group():
    with spawn(["sh", "-c", "sleep 60 & echo $!; wait"]) as process:
        child = int(process.popen.stdout.readline())
    assert process.poll() is not None
    assert wait_until_gone(child)


def test_child_ends_when_its_starter_is_killed():
    code = (
        "from guestforge.core.run import spawn\nimport time\n"
        "with spawn(['sleep', '60']) as p:\n print(p.pid, flush=True)\n time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    assert wait_until_gone(child)


def test_environment_is_small_and_fixed(monkeypatch):
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    env = environment({"ARCH": "x86"})
    assert "CFLAGS" not in env
    assert (env["LC_ALL"], env["TZ"], env["ARCH"]) == ("C.UTF-8", "UTC", "x86")


def test_system_directories_are_searched_too(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert os.fspath(find_tool("mke2fs") or "").endswith("sbin/mke2fs")
    assert find_tool("no-such-tool") is None


def test_a_directory_of_path_that_may_not_be_looked_into_is_passed_over(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    code = f"""
import os
from guestforge.core.run import find_tool
os.environ["PATH"] = "{tmp_path}/closed/bin:/bin"
if os.getuid() == 0:  # who may look everywhere
    os.setuid(65534)
print(find_tool("sh"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "/bin/sh\n", done.stderr


def test_an_interruption_while_python_forks_ends_the_program_that_was_started():
    """What is registered for fork(2) is not broken off, and the program is not forgotten."""
    code = """
import os, signal
from guestforge.core.run import spawn
from guestforge.core.signals import heeded, interrupt_on
interrupt_on(heeded())
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    with spawn(["sleep", "60"]):
        pass
except KeyboardInterrupt:
    print("interrupted", open(f"/proc/self/task/{os.getpid()}/children").read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=REPOSITORY)
    assert (done.stdout, done.stderr) == ("interrupted \n", "")


def test_an_interruption_while_a_program_is_ended_ends_it_all_the_same():
    """The program is deaf to SIGTERM: while we give it its time comes the interruption, and SIGKILL after that."""
    deaf = ["sh", "-c", "trap '' TERM; echo deaf; sleep 60 & wait; wait"]
    with pytest.raises(KeyboardInterrupt), spawn(deaf, outlives_us=True) as process:
        assert process.popen.stdout.readline() == b"deaf\n"
        Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert process.poll() == -signal.SIGKILL
    assert process.popen.stdout.closed


def test_a_program_can_be_interrupted_though_its_start_could_not():
    masked = run(["sh", "-c", "grep SigBlk /proc/self/status"]).output.split()[1]
    assert int(masked, 16) == 0


@pytest.mark.parametrize("script", [f"sleep {LIMIT}", f"exec >&- 2>&-; sleep {LIMIT}"], ids=["reading", "waiting"])
def test_a_signal_that_another_thread_takes_is_heeded_while_a_program_runs(script):
    with heeds_what_another_takes():
        run(["sh", "-c", script])
