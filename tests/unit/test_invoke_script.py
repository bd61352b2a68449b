"""The start script, in a checkout of its own, with a python3 that only pretends to make and fill an environment."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "invoke"
TOOLS = (
    "readlink",
    "dirname",
    "cmp",
    "id",
    "rm",
    "rmdir",
    "mkdir",
    "cp",
    "mv",
    "env",
    "chmod",
    "sleep",
    "cat",
    "touch",
)

# Stands for the system's Python and, copied into .venv, for the environment's. `pip` puts the program `invoke` there.
PYTHON = f"""#!/bin/sh
[ "$1" = -I ] || {{ echo "the user's directory is in the path: $*" >&2; exit 9; }}
shift
case $1$2 in
-c*realpath*) echo "find" >>"$NOTES"; echo "$0";;
-c*) exec {sys.executable} "$@";;
-mvenv) echo "venv" >>"$NOTES"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
-mpip)
    echo "pip $*" >>"$NOTES"
    env >"$NOTES.env"
    [ ! -e "$NOTES.slow" ] || {{ : >"$NOTES.at-work"; exec sleep 30; }}
    [ ! -e "$NOTES.wait" ] || sleep 0.3
    [ ! -e "$NOTES.fail" ] || {{ echo "pip says why" >&2; exit 1; }}
    cp "$NOTES.invoke" "${{0%/*}}/invoke";;
esac
"""
INVOKE = """#!/bin/sh
echo "in $PWD: $*"
echo "PYTHONPATH=${PYTHONPATH-} PYTHONHOME=${PYTHONHOME-} VIRTUAL_ENV=${VIRTUAL_ENV-}"
exit 7
"""


class Checkout:
    """A checkout with the script, a lock file and a PATH of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "a checkout"
        self.root.mkdir()
        shutil.copy(SCRIPT, self.root)
        self.lock = self.root / "requirements.lock"
        self.lock.write_text("invoke==1\n")
        self.bin = place / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
        self.program("python3", PYTHON)
        self.notes = place / "notes"
        Path(f"{self.notes}.invoke").write_text(INVOKE)
        Path(f"{self.notes}.invoke").chmod(0o755)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def program(self, name: str, script: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def set(self, what: str) -> Path:
        path = Path(f"{self.notes}.{what}")
        path.touch()
        return path

    def at_work(self) -> bool:
        """Whether pip is in the middle of its work: a mark made without a fork, in which dash loses signals."""
        return Path(f"{self.notes}.at-work").exists()

    def start(self, *args, script=None, cwd=None, **env):
        return subprocess.Popen(
            [script or self.root / "invoke", *args],
            cwd=cwd or self.place,
            env={"PATH": str(self.bin), "NOTES": str(self.notes), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def call(self, *args, **options):
        """Run the script to its end; return exit code, standard output and error."""
        with self.start(*args, **options) as process:
            output, errors = process.communicate(timeout=20)
        return process.returncode, output, errors

    def noted(self) -> list[str]:
        """Return what python3 was called for since the last time: `find`, `venv`, `pip`."""
        words = [line.split()[0] for line in self.notes.read_text().splitlines()] if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return words


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def made(checkout):
    """The same with a whole environment."""
    assert checkout.call("build")[0] == 7
    assert checkout.noted() == ["find", "venv", "pip"]
    return checkout


def test_the_first_call_makes_the_environment_and_hands_over(checkout):
    code, output, errors = checkout.call("build", "--arch", "all two")
    assert code == 7  # Invoke's own
    assert output.startswith(f"in {checkout.place}: --search-root {checkout.root} --write-pyc build --arch all two\n")
    assert "making .venv" in errors
    pip = checkout.notes.read_text().splitlines()[-1]
    assert f"--require-hashes --no-deps -r {checkout.lock}" in pip
    assert "--quiet" in pip  # no terminal


def test_without_arguments_the_tasks_are_listed(made):
    assert f"--search-root {made.root} --write-pyc --list\n" in made.call()[1]


def test_a_whole_environment_is_used_without_starting_python(made):
    code, output, errors = made.call("test")
    assert (code, errors) == (7, "")
    assert output.startswith(f"in {made.place}: --search-root {made.root} --write-pyc test\n")
    assert made.noted() == []


def test_byte_code_is_written_unless_that_is_not_wanted(made):
    assert f"--search-root {made.root} test\n" in made.call("test", PYTHONDONTWRITEBYTECODE="1")[1]


@pytest.mark.alone
def test_it_costs_little_once_the_environment_is_whole(made):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        made.call("test")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05  # 5 ms here, the start of a process included


def test_the_lists_of_another_environment_do_not_reach_ours(made):
    output = made.call(PYTHONPATH="/x", PYTHONHOME="/y", VIRTUAL_ENV="/z")[1]
    assert output.endswith("PYTHONPATH= PYTHONHOME= VIRTUAL_ENV=\n")


def test_a_home_that_is_no_directory_is_told(made):
    (made.place / "loop").symlink_to("loop")
    for home in (made.lock, made.place / "loop"):
        code, output, errors = made.call(HOME=str(home))
        assert (code, output) == (1, "")
        assert errors.startswith(f"error: HOME is {home}, which is no directory\n")
    for home in ("/nowhere", "", str(made.place)):
        assert made.call(HOME=home)[0] == 7


def test_pip_installs_nowhere_else(checkout):
    checkout.call(PIP_TARGET="/x", PIP_USER="1", PIP_PREFIX="/y", PIP_CERT="/c")
    settings = Path(f"{checkout.notes}.env").read_text()
    assert "PIP_CERT=/c" in settings
    assert not {"PIP_TARGET", "PIP_USER", "PIP_PREFIX"} & {line.partition("=")[0] for line in settings.splitlines()}


@pytest.mark.parametrize("relative", [False, True])
def test_it_can_be_called_by_links_from_anywhere(made, relative):
    elsewhere = made.place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "one").symlink_to("../a checkout/invoke" if relative else made.root / "invoke")
    (made.place / "two").symlink_to("elsewhere/one" if relative else elsewhere / "one")
    output = made.call("x", script="../two", cwd=elsewhere)[1]
    assert output.startswith(f"in {elsewhere}: --search-root {made.root} --write-pyc x\n")


def spoil_lock(checkout):
    checkout.lock.write_text("invoke==2\n")


def spoil_stamp(checkout):
    (checkout.venv / "made.from").unlink()


def spoil_python(checkout):
    (checkout.venv / "bin/python").unlink()
    (checkout.venv / "bin/python").symlink_to("/nowhere/python3.9")


def spoil_program(checkout):
    (checkout.venv / "bin/invoke").unlink()


def spoil_place(checkout):
    checkout.root = checkout.root.rename(checkout.place / "moved")


@pytest.mark.parametrize("spoil", [spoil_lock, spoil_stamp, spoil_python, spoil_program, spoil_place])
def test_an_environment_that_is_not_whole_or_not_of_this_lock_is_made_anew(made, spoil):
    (made.venv / "old").touch()
    spoil(made)
    assert made.call()[0] == 7
    assert made.noted() == ["find", "venv", "pip"]
    assert not (made.venv / "old").exists()
    made.call()
    assert made.noted() == []


@pytest.mark.parametrize("link", [False, True])
def test_an_environment_of_the_users_own_is_left_alone(checkout, link):
    theirs = checkout.place / "theirs" if link else checkout.venv
    (theirs / "bin").mkdir(parents=True)
    (theirs / "bin/invoke").write_text("mine")
    if link:
        checkout.venv.symlink_to(theirs)
    code, output, errors = checkout.call()
    assert (code, output) == (1, "")
    assert f"error: {checkout.venv} was not made by ./invoke" in errors
    assert (theirs / "bin/invoke").read_text() == "mine"


def test_an_empty_directory_in_its_place_is_taken(checkout):
    checkout.venv.mkdir()
    assert checkout.call()[0] == 7


def test_a_failure_of_pip_is_told_and_the_next_run_begins_again(checkout):
    fail = checkout.set("fail")
    code, output, errors = checkout.call()
    assert (code, output) == (1, "")
    assert errors.index("pip says why") < errors.index("error: pip could not install")
    fail.unlink()
    checkout.noted()
    assert checkout.call()[0] == 7
    assert checkout.noted() == ["find", "venv", "pip"]


def test_two_at_once_make_one(checkout):
    checkout.set("wait")
    with checkout.start() as first, checkout.start() as second:
        errors = first.communicate(timeout=20)[1] + second.communicate(timeout=20)[1]
    assert (first.returncode, second.returncode) == (7, 7)
    assert sorted(checkout.noted()) == ["find", "find", "pip", "venv"]
    assert errors.count("waiting for another ./invoke") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_that_counts_as_whole(checkout, number):
    slow = checkout.set("slow")
    with checkout.start() as process:
        while not checkout.at_work():
            time.sleep(0.01)
        os.killpg(process.pid, number)
        errors = process.communicate(timeout=5)[1]
    assert process.returncode == 130
    assert "the next ./invoke makes .venv anew" in errors
    slow.unlink()
    checkout.noted()
    assert checkout.call()[0] == 7
    assert checkout.noted() == ["find", "venv", "pip"]


def test_a_kill_leaves_no_lock_behind(checkout):
    slow = checkout.set("slow")
    with checkout.start() as process:
        while not checkout.at_work():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=5)
    slow.unlink()
    code, _, errors = checkout.call()
    assert code == 7
    assert "waiting" not in errors


# The root of a test run may write anywhere: the fault is made.
def test_a_checkout_that_can_not_be_written_is_named(checkout):
    checkout.program("mkdir", "#!/bin/sh\necho no >&2\nexit 1\n")
    code, _, errors = checkout.call()
    assert code == 1
    assert f"error: {checkout.venv} can't be written by " in errors
    assert "no\n" not in errors


def test_a_directory_that_is_no_checkout_is_named(checkout):
    checkout.lock.unlink()
    code, _, errors = checkout.call()
    assert code == 1
    assert f"error: {checkout.lock} is missing" in errors


COMMAND = "apt-get install --no-install-recommends python3 python3-venv"
APT = f"""#!/bin/sh
echo "$DEBIAN_FRONTEND apt-get $*" >>"$NOTES.apt"
[ "$1" = update ] && exec touch "$NOTES.lists"
[ -e "$NOTES.lists" ] || exit 100
cat >{{bin}}/python3 <<'END'
{PYTHON}END
chmod +x {{bin}}/python3
"""


@pytest.fixture
def bare(checkout):
    """A checkout on a host with apt-get and without a Python."""
    (checkout.bin / "python3").unlink()
    checkout.program("apt-get", APT.replace("{bin}", str(checkout.bin)))
    checkout.program("id", "#!/bin/sh\necho 0\n")
    return checkout


def apt_calls(checkout):
    path = Path(f"{checkout.notes}.apt")
    return [line.split()[:3] for line in path.read_text().splitlines()] if path.exists() else []


def test_root_gets_a_python_and_the_lists_first_where_there_are_none(bare):
    code, _, errors = bare.call()
    assert code == 7, errors
    install, update = (["noninteractive", "apt-get", "install"], ["apt-get", "update", "-q"])
    assert apt_calls(bare) == [install, update, install]
    assert "installing python3 python3-venv" in errors


def test_a_user_gets_it_by_a_sudo_that_asks_for_no_password(bare):
    bare.program("id", "#!/bin/sh\necho 1000\n")
    bare.program("sudo", '#!/bin/sh\n[ "$1" = -n ] && shift && [ "$1" = true ] || exec "$@"\n')
    bare.set("lists")
    assert bare.call()[0] == 7
    assert apt_calls(bare) == [["noninteractive", "apt-get", "install"]]


@pytest.mark.parametrize(
    ("user", "sudo", "switch", "hint"),
    [
        ("1000", "exit 1", "", f"sudo {COMMAND}"),  # it asks for a password
        ("1000", "", "never", f"sudo {COMMAND}"),
        ("1000", None, "", f"su -c '{COMMAND}'"),
        ("0", None, "never", COMMAND),
    ],
)
def test_one_who_may_not_install_is_told_the_one_command(bare, user, sudo, switch, hint):
    bare.program("id", f"#!/bin/sh\necho {user}\n")
    if sudo is not None:
        bare.program("sudo", f"#!/bin/sh\n{sudo}\n")
    code, output, errors = bare.call(GUESTFORGE_INSTALL=switch)
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1] == f"hint: install with: {hint}"
    assert len(errors.splitlines()) == 2
    assert apt_calls(bare) == []


def test_a_host_without_apt_is_told_what_is_needed(bare):
    (bare.bin / "apt-get").unlink()
    code, _, errors = bare.call()
    assert code == 1
    assert errors.startswith("error: Python 3.11 or newer with venv and pip is needed")


def test_a_python_that_stays_too_old_is_told(bare):
    bare.program("apt-get", "#!/bin/sh\n")
    bare.program("python3", "#!/bin/sh\nexit 1\n")
    code, _, errors = bare.call()
    assert code == 1
    assert "older than 3.11" in errors


def test_a_newer_python_beside_an_old_python3_is_taken(bare):
    bare.program("python3", "#!/bin/sh\nexit 1\n")
    bare.program("python3.12", PYTHON)
    assert bare.call()[0] == 7
    assert apt_calls(bare) == []
