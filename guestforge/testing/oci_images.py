"""Makes OCI images from a few files, with umoci, and archives of them with skopeo."""

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from guestforge.arch import Arch
from guestforge.core.graph import Evaluation
from guestforge.core.store import Store
from guestforge.project.load import load_rootfs
from guestforge.sources.kernel_tree import TREE
from guestforge.sources.packages import package_step
from guestforge.sources.resolution import Archive

Content = bytes | str | Path | tuple[int, bytes | str | Path]


def tool(*argv: str | Path, cwd: Path | None = None) -> str:
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=env, cwd=cwd)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **facts: str | int) -> tarfile.TarInfo:
    """A file of a layer without content: a directory, a link, a pipe, an empty file (`.wh.NAME` takes NAME away)."""
    found = tarfile.TarInfo(name.strip("/"))
    found.type, found.mode = kind, mode
    for key, value in facts.items():
        setattr(found, key, value)
    return found


def make_layout(
    directory: Path,
    tree: Mapping[str, Content],
    arch: Arch,
    *,
    tag: str = "latest",
    args: Sequence[str] = (),
    env: Sequence[str] | Mapping[str, str] = (),
    user: str = "",
    cwd: str = "/",
    layers: Sequence[Sequence[tarfile.TarInfo]] = (),
) -> Path:
    """Make an image in an OCI layout, which is made where there is none, and return the layout.

    `tree` has the content of each file, or its mode and content; a path is a file of ours (0755), and a name that ends
    in a slash is a directory. `layers` are put on it, of what `member` returns.
    """
    if not directory.exists():
        tool("umoci", "init", "--layout", directory)
    image = f"{directory}:{tag}"
    tool("umoci", "new", "--image", image)
    files = [_file(name, content) for name, content in sorted(tree.items())]
    for layer in ([files] if files else []) + [[(each, b"") for each in layer] for layer in layers]:
        _add(directory, image, layer)
    variables = [f"{name}={value}" for name, value in env.items()] if isinstance(env, Mapping) else env
    said = [*_each("--config.cmd", args), *_each("--config.env", variables)]
    said += ["--config.user", user] if user else []
    said += ["--config.workingdir", cwd, "--architecture", arch.go, "--os", "linux"]
    tool("umoci", "config", "--no-history", "--image", image, *said)
    return directory


def make_archive(layout: Path, kind: str, path: Path, *, tag: str = "latest", name: str = "") -> Path:
    """Write an image of a layout to a file, as kind `docker-archive` or `oci-archive`."""
    tool("skopeo", "copy", "--quiet", f"oci:{layout}:{tag}", f"{kind}:{path}{f':{name}' if name else ''}")
    return path


@cache
def busybox(arch: Arch) -> Path:
    """Return a static busybox for an architecture, Debian's, out of the user's store."""
    store = Store()
    step = package_step(Archive(store), "busybox-static", load_rootfs("debug").suite, arch.debian)
    return Evaluation(store).entry(step).path / TREE / "bin" / "busybox"


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _file(name: str, content: Content) -> tuple[tarfile.TarInfo, bytes]:
    mode = None
    if isinstance(content, tuple):
        mode, content = content
    if name.endswith("/"):
        return member(name, tarfile.DIRTYPE, 0o755 if mode is None else mode), b""
    data = content.read_bytes() if isinstance(content, Path) else content
    data = data.encode() if isinstance(data, str) else data
    default = 0o755 if isinstance(content, Path) else 0o644
    return member(name, mode=default if mode is None else mode, size=len(data)), data


def _add(directory: Path, image: str, files: Sequence[tuple[tarfile.TarInfo, bytes]]) -> None:
    layer = directory / ".layer.tar"
    with tarfile.open(layer, "w") as tar:
        for found, data in files:
            tar.addfile(found, io.BytesIO(data))
    tool("umoci", "raw", "add-layer", "--no-history", "--image", image, layer)
    layer.unlink()
