"""Guests to be installed, and what Kata's runtimes would find of them."""

import hashlib
import json
import tomllib

from releases import GUEST, contents

from guestforge.arch import lookup
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.scratch import MARK, MARK_TEXT
from guestforge.core.store import Store
from guestforge.install.guests import find_guest
from guestforge.install.places import LINKS, RUNTIMES
from guestforge.project.options import BuildOptions, CheckOptions

DATA = "share/kata-containers"
CURRENT_GUEST = "links"  # how it is found where no drop-in names it
BOOT = {"memory_mib": 256, "cpus": 1, "kernel_args": []}


def change(path, how):
    """Change a JSON file."""
    said = json.loads(path.read_text())
    how(said)
    path.write_text(json.dumps(said))


def release_in(output, arch="x86_64", boot=(), given=False, **changed):
    """Lay a release out in an output directory, which is returned; `changed` has other contents, by key."""
    files = contents(arch, **{"config": b"CONFIG_VIRTIO_MEM=y\n", **changed})
    for name, data in files.items():
        path = output / arch / GUEST / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    recipe = {"guest": {"description": "x", "kernel": "k", "rootfs": "r", "boot": {**BOOT, **dict(boot)}}}

    def how(said):
        said["arch"] = arch
        said["release"]["recipe"] = recipe
        said["release"]["agent"]["given"] = given

    change(output / arch / GUEST / "manifest.json", how)
    return output


def guest_of(output, arch="x86_64", **options):
    """Return the guest of a release that was laid out."""
    row = lookup(arch)
    built = BuildOptions(**{"guest": GUEST, "output": output, "arches": (row,), **options})
    return find_guest(row, built, CheckOptions(), Evaluation(Store(output.with_name("cache"))), Jobserver(1))


def found_by_kata(prefix):
    """Return the guest that each runtime finds, and that which the links lead to, all of it whole."""
    found = {}
    for runtime in RUNTIMES:
        for path in sorted((prefix / runtime.folder / "config.d").glob("*")):
            assert path == prefix / runtime.drop_in  # a runtime would read anything else too
            assert path.is_file()
            assert not path.is_symlink()
            said = tomllib.loads(path.read_text())["hypervisor"]["qemu"]
            directory = _whole(prefix, said["kernel"])
            assert (said["image"], said["initrd"]) in {(f"{directory}/rootfs.img", ""), ("", f"{directory}/initrd.img")}
            found[runtime.name] = directory.name
    current = prefix / DATA / "guestforge" / "current"
    if current.exists():
        directory = _whole(prefix, current.resolve() / "kernel")
        for name, file in LINKS.items():
            link = prefix / DATA / name
            assert not link.exists() or link.resolve() == directory / file
        found[CURRENT_GUEST] = directory.name
    else:
        assert not any((prefix / DATA / name).exists() for name in LINKS)
    return found


def _whole(prefix, kernel):
    """Return the directory of a kernel, all files of which are what its manifest says."""
    (directory,) = [path for path in (prefix / DATA / "guestforge").iterdir() if f"{path}/kernel" == str(kernel)]
    manifest = (directory / "manifest.json").read_bytes()
    assert directory.name == f"{GUEST}-{hashlib.sha256(manifest).hexdigest()[:16]}"
    said = json.loads(manifest)
    for name, facts in {**said["artifacts"], **said["release"]["checks"]}.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == facts["sha256"]
    return directory


def tree_of(root):
    """Return what lies below a directory: by its path, what it is, and what tells whether it was touched."""
    return {path.relative_to(root).as_posix(): _told(path) for path in root.rglob("*")}


def _told(path):
    status = path.lstat()
    if path.is_symlink():
        return "link", status.st_ino, str(path.readlink())
    if path.is_dir():
        return ("directory",)
    return "file", status.st_ino, status.st_mtime_ns, path.read_bytes()


def left_in(prefix):
    """Return what was left behind, but for a directory of one who was killed before it was known to be ours."""
    return [path for path in prefix.rglob(".guestforge.*/*") if path.name != MARK or path.read_bytes() == MARK_TEXT]
