"""What is missing on a host, and how it gets there: with an apt-get, a dpkg and a sudo of the test's own."""

import os
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest

from guestforge.arch import AARCH64, ARCHES, S390X, X86_64
from guestforge.core.errors import UserError
from guestforge.core.need import Need, missing
from guestforge.host import packages
from guestforge.host.packages import command, ensure
from guestforge.kernel.toolchain import kernel_needs
from guestforge.vmm.needs import boot_needs

FLEX, BISON = Need("flex", tool="t-flex"), Need("bison-pkg", tool="t-bison")
BOTH = "flex bison-pkg"

# Records how it was called, then does what the file `plan` says for this call, and installs what it was asked for.
APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND|apt-get $*" >>calls
case $1 in update) touch updated; exit;; esac
. ./plan
for word; do case $word in
    flex) touch bin/t-flex;;
    bison-pkg) touch bin/t-bison;;
esac; done
chmod +x bin/*
"""


class Host:
    """A directory with a PATH of its own, and what was called there."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        self._root = root
        self.plan("")
        for tool in ("sh", "touch", "chmod", "env", "sleep", "true"):
            self.bin.joinpath(tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")

    def plan(self, script: str) -> None:
        (self._root / "plan").write_text(script + "\n")

    def tool(self, name: str, script: str = "#!/bin/sh\n") -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    @property
    def calls(self) -> list[str]:
        path = self._root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GUESTFORGE_CACHE", raising=False)
    monkeypatch.delenv("GUESTFORGE_INSTALL", raising=False)
    monkeypatch.setattr("guestforge.core.environment.SYSTEM_PATHS", ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    host = Host(tmp_path)
    host.tool("apt-get", APT)
    return host


@pytest.fixture
def user(host, monkeypatch):
    """The same host as a user; sudo, which says whether it would do it, is for each test to add."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return host


def refusal(needs=(FLEX, BISON)) -> UserError:
    with pytest.raises(UserError) as caught:
        ensure(needs)
    assert caught.value.exit_code == 1
    return caught.value


def test_nothing_is_run_where_nothing_is_missing(host):
    host.tool("t-flex")
    ensure([FLEX, Need("x", file="/etc/passw?")])
    assert host.calls == []


def test_root_installs_exactly_what_is_missing(host, capfd):
    host.tool("t-flex")
    ensure([FLEX, BISON, BISON])
    [call] = host.calls
    assert call.startswith("noninteractive|apt-get install --no-install-recommends -y")
    assert f" DPkg::Lock::Timeout={packages.LOCK_TIMEOUT} " in call
    assert call.endswith(" bison-pkg") and "flex" not in call
    assert "installing bison-pkg: t-bison is missing" in capfd.readouterr().err


def test_a_user_installs_by_a_sudo_that_asks_for_no_password(user):
    user.tool("sudo", '#!/bin/sh\necho "sudo $*" >>calls\nshift; exec "$@"\n')
    ensure([FLEX, BISON])
    first, second, third = user.calls
    assert first == "sudo -n true"
    assert second.startswith("sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install ")
    assert third.startswith("noninteractive|apt-get install ") and third.endswith(BOTH)


def test_a_user_whose_sudo_asks_for_a_password_is_told_the_one_command(user):
    user.tool("sudo", '#!/bin/sh\necho "sudo $*" >>calls\nexit 1\n')
    error = refusal()
    assert error.hint == f"install with: sudo apt-get install --no-install-recommends {BOTH}"
    assert error.message == "t-flex, t-bison are missing on this host"
    assert user.calls == ["sudo -n true"]


def test_a_user_without_sudo_is_told_the_command_for_su(user):
    assert refusal().hint == f"install with: su -c 'apt-get install --no-install-recommends {BOTH}'"
    assert user.calls == []


@pytest.mark.parametrize("uid", [0, 1000])
def test_nothing_is_installed_where_the_switch_says_never(host, monkeypatch, uid):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("GUESTFORGE_INSTALL", "never")
    host.tool("sudo", '#!/bin/sh\necho "sudo $*" >>calls\n')
    assert refusal().hint == f"install with: {'sudo ' if uid else ''}apt-get install --no-install-recommends {BOTH}"
    assert host.calls == []


def test_a_switch_that_is_neither_is_refused(host, monkeypatch):
    monkeypatch.setenv("GUESTFORGE_INSTALL", "no")
    assert "GUESTFORGE_INSTALL=no: not auto or never" in refusal().message
    assert host.calls == []


def test_a_host_without_apt_is_told_what_is_missing(host):
    (host.bin / "apt-get").unlink()
    error = refusal()
    assert "t-flex, t-bison are missing, and this host has no apt-get" in error.message
    assert BOTH in (error.hint or "")


@pytest.mark.parametrize(
    "complaint",
    [
        "E: Unable to locate package flex",
        "E: Package 'flex' has no installation candidate",
        "E: Failed to fetch http://m/flex_1.deb  404  Not Found",
    ],
)
def test_lists_that_are_missing_or_old_are_fetched_once(host, complaint):
    host.plan(f"[ -e updated ] || {{ echo {shlex.quote(complaint)} >&2; exit 100; }}")
    ensure([FLEX])
    assert [call.split()[1] for call in host.calls] == ["install", "update", "install"]


def test_an_interrupted_dpkg_is_finished_first(host):
    host.tool("dpkg", '#!/bin/sh\necho "dpkg $*" >>calls\ntouch finished\n')
    host.plan("[ -e finished ] || { echo 'E: dpkg was interrupted, you must ...' >&2; exit 100; }")
    ensure([FLEX])
    assert host.calls[1] == "dpkg --configure -a"
    assert missing([FLEX]) == ()


def test_a_failure_of_apt_is_shown_and_not_tried_again(host):
    host.plan("echo 'E: Sub-process /usr/bin/dpkg returned an error code (1)'; exit 100")
    error = refusal()
    assert "apt-get ended with exit code 100" in error.message
    assert "E: Sub-process" in (error.excerpt or "")
    assert len(host.calls) == 1


@pytest.mark.usefixtures("host")
def test_an_installation_that_leaves_something_missing_is_an_error():
    error = refusal([FLEX, Need("other", tool="t-other")])
    assert error.message == "t-other is still missing, though apt-get installed other"


def test_two_at_once_install_once(host):
    host.plan("sleep 0.2")
    threads = [threading.Thread(target=ensure, args=([FLEX],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(host.calls) == 1


def test_a_ctrl_c_waits_for_the_end_of_the_installation(host, capfd):
    host.plan("sleep 0.4")
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ensure([FLEX])
    assert missing([FLEX]) == ()
    assert "stopping once the packages are installed" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_the_bar_moves_with_the_stages_of_the_packages(host, monkeypatch):
    counts = []
    monkeypatch.setattr(packages.Bar, "update", lambda _, amount: counts.append(amount))
    lines = ["Get:9 early", "0 upgraded, 2 newly installed, 0 to remove and 1 not upgraded."]
    lines += ["Get:1 a", "Get:2 b", "Unpacking a", "Unpacking b", "Setting up a", "Setting up b", "Setting up c"]
    host.plan("\n".join(f"echo {shlex.quote(line)}" for line in lines))
    ensure([FLEX])
    # the recording bar's own count stays 0, so each amount is the place that was reached; the last is apt-get's end
    assert counts == [16, 33, 50, 66, 83, 100, 100, 100]


def test_a_file_is_there_when_one_of_its_places_is(tmp_path):
    (tmp_path / "headers-7").mkdir()
    there = Need("p", file=f"/nowhere/a:{tmp_path}/headers-*")
    assert missing([there]) == ()
    gone = Need("p", tool="no-such-tool", file="/nowhere/a:/nowhere/b")
    assert missing([there, gone, gone]) == (gone,)


def test_either_a_program_or_a_file_is_enough(host):
    host.tool("t-virtiofsd")
    assert missing([Need("p", tool="t-virtiofsd", file="/nowhere/v")]) == ()
    assert missing([Need("p", tool="t-nothing", file="/etc/passwd")]) == ()


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_no_architecture_asks_for_the_tools_of_another(arch):
    asked = {need.package for need in kernel_needs(arch) + boot_needs(arch)}
    others = {p for other in ARCHES.values() if other is not arch for p in (other.debian_compiler, other.debian_qemu)}
    assert asked.isdisjoint(others)
    assert arch.debian_qemu in asked
    assert arch.native or arch.debian_compiler in asked


def test_the_compiler_of_the_host_is_the_plain_one(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    named = {need.tool: need.package for need in (*kernel_needs(AARCH64), *kernel_needs(X86_64))}
    assert named["aarch64-linux-gnu-gcc"] == named["gcc"] == "gcc"
    assert named["x86_64-linux-gnu-gcc"] == "gcc-x86-64-linux-gnu"


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, "qemu-system-common"),
        ({"ID": "debian", "VERSION_ID": "13"}, "virtiofsd"),
        ({"ID": "debian"}, "virtiofsd"),  # testing and unstable have no number
        ({"ID": "ubuntu", "VERSION_ID": "22.04"}, "qemu-system-common"),
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, "virtiofsd"),
        ({"ID": "other", "VERSION_ID": "1"}, "virtiofsd"),
    ],
)
def test_virtiofsd_is_in_the_package_of_the_release(monkeypatch, release, package):
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    assert package in [need.package for need in boot_needs(S390X)]


@pytest.mark.usefixtures("host")
def test_the_command_names_each_package_once():
    needs = [Need("e2fsprogs", tool="a"), Need("e2fsprogs", tool="b"), FLEX]
    assert command(needs) == "apt-get install --no-install-recommends e2fsprogs flex"


@pytest.mark.alone
def test_looking_for_everything_is_quick():
    needs = [need for arch in ARCHES.values() for need in kernel_needs(arch) + boot_needs(arch)]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        missing(needs)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02  # 3 ms here; a loaded machine may take longer
