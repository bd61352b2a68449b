"""From a recipe to the tree of a guest: the agent, what a kernel and a runtime expect to find, packages, overlays.

Layout: `/init` is what the kernel runs from an initrd (init/main.c: ramdisk_execute_command), `/sbin/init` the first
of what it tries on a disk. A runtime mounts the disk read-only, so every directory that the agent mounts on is there.
"""

import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from guestforge.core.errors import UserError
from guestforge.project.models import Rootfs
from guestforge.rootfs.tree import Device, Directory, File, Node, Symlink, Tree

INITRD_INIT = "/init"
DISK_INIT = "/sbin/init"

# The directories and their modes.
DIRECTORIES = {
    "/": 0o755, "/bin": 0o755, "/dev": 0o755, "/etc": 0o755, "/mnt": 0o755, "/proc": 0o555, "/root": 0o700,
    "/run": 0o755, "/sbin": 0o755, "/sys": 0o555, "/usr": 0o755, "/var": 0o755,
    "/tmp": 0o1777, "/var/tmp": 0o1777,  # noqa: S108 - the guest's
}  # fmt: skip

# Links to what is mounted at boot, for who needs a place to write: a disk is read-only. kata-agent keeps the sandbox's
# namespaces below /var/run, which the Filesystem Hierarchy Standard 3.0, 5.13, wants to be this link.
LINKS = {"/var/run": "/run"}

# Numbers: https://docs.kernel.org/admin-guide/devices.html. The kernel opens /dev/console for init before anybody has
# mounted a devtmpfs; the rest is for a program that runs before the agent has, and for an agent that mounts none.
DEVICES = (
    Device("/dev/console", "char", 5, 1, 0o600),
    Device("/dev/full", "char", 1, 7, 0o666),
    Device("/dev/kmsg", "char", 1, 11, 0o644),
    Device("/dev/null", "char", 1, 3, 0o666),
    Device("/dev/random", "char", 1, 8, 0o666),
    Device("/dev/tty", "char", 5, 0, 0o666),
    Device("/dev/urandom", "char", 1, 9, 0o666),
    Device("/dev/zero", "char", 1, 5, 0o666),
)

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"
HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"

# What a package brings for people who read it on a disk. Licences (usr/share/doc/*/copyright) stay.
UNWANTED = ("/usr/share/doc/", "/usr/share/info/", "/usr/share/lintian/", "/usr/share/locale/", "/usr/share/man/")


def initrd_tree(recipe: Rootfs, agent: Path, packages: Iterable[Path] = (), overlays: Iterable[Path] = ()) -> Tree:
    """Return the tree of an initrd; `agent` is the agent's file, the others directories, of which later ones win.

    Raises UserError where packages, overlays, links or modes disagree with each other or with the layout.
    """
    return _tree(recipe, agent, INITRD_INIT, packages, overlays)


def disk_tree(recipe: Rootfs, agent: Path, packages: Iterable[Path] = (), overlays: Iterable[Path] = ()) -> Tree:
    """Return the tree of a disk image; see `initrd_tree`."""
    return _tree(recipe, agent, DISK_INIT, packages, overlays)


def _tree(recipe: Rootfs, agent: Path, init: str, packages: Iterable[Path], overlays: Iterable[Path]) -> Tree:
    nodes: dict[str, Node] = {node.path: node for node in layout(recipe)}
    laid = itertools.chain(*map(package_nodes, packages), *map(_nodes, overlays))
    for node in map(_behind_links, laid):
        # a directory or link that is there stays; a package's own passwd or group is what its files need
        if not (isinstance(nodes.get(node.path), Directory | Symlink) and isinstance(node, Directory)):
            nodes[node.path] = node
    nodes |= _with_modes(recipe, nodes)
    return Tree([*nodes.values(), File(init, agent, 0o755), *map(_behind_links, _links(recipe))])


def _with_modes(recipe: Rootfs, nodes: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    """Yield the nodes whose modes a recipe gives, by their paths."""
    for path, mode in recipe.modes.items():
        node = nodes.get(path)
        if node is None or isinstance(node, Symlink):
            there = "is a symbolic link, which has none" if node else "is not there"
            raise UserError(f"root file system: the recipe gives {path!r} the mode {mode}, and it {there}")
        yield path, replace(node, mode=int(mode, 8))


def layout(recipe: Rootfs) -> Iterator[Node]:
    """Yield what every guest has besides the agent."""
    yield from (Directory(path, mode) for path, mode in DIRECTORIES.items())
    yield from (Symlink(path, target) for path, target in LINKS.items() if path not in recipe.links)
    yield from DEVICES
    yield File("/etc/group", GROUP)
    yield File("/etc/hostname", f"{recipe.hostname}\n".encode())
    yield File("/etc/hosts", HOSTS)
    yield File("/etc/passwd", PASSWD)
    yield File("/etc/resolv.conf", b"")  # a plain file: the agent binds the sandbox's over it


def _links(recipe: Rootfs) -> Iterator[Symlink]:
    for path, target in recipe.links.items():
        yield Symlink(path, target)


def package_nodes(root: Path) -> Iterator[Node]:
    """Yield the files of an unpacked package, all owned by root, without documentation.

    Raises UserError for what is neither file, directory nor symbolic link.
    """
    return (node for node in _nodes(root) if _wanted(node))


def _nodes(root: Path) -> Iterator[Node]:
    for directory, names, files in os.walk(root, onerror=_raise):
        for name in sorted([*names, *files]):
            host = Path(directory, name)
            yield _node("/" + host.relative_to(root).as_posix(), host)


def _behind_links(node: Node) -> Node:
    """Return a package's file at the place to which the layout's links lead, as a package manager would write it."""
    for link, target in LINKS.items():
        if node.path.startswith(f"{link}/"):
            return replace(node, path=target + node.path.removeprefix(link))
    return node


def _raise(error: OSError) -> None:
    raise error


def _wanted(node: Node) -> bool:
    if f"{node.path}/".startswith(UNWANTED):
        return node.path.endswith("/copyright") and not isinstance(node, Symlink)
    return True


def _node(path: str, host: Path) -> Node:
    facts = host.lstat()
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISLNK(facts.st_mode):
        return Symlink(path, os.readlink(host))  # noqa: PTH115 - Path would change the target's spelling
    if stat.S_ISDIR(facts.st_mode):
        return Directory(path, mode)
    if stat.S_ISREG(facts.st_mode):
        return File(path, host, mode)
    raise UserError(f"the package in {host.parents[0]} holds {path}, which is no file, directory or link")
