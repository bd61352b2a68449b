"""Steps in the place of those that take long: each makes files with a content that a test chooses."""

from collections.abc import Mapping
from pathlib import Path

from guestforge.core.runtime import Runtime
from guestforge.core.step import Step, Use, Used
from guestforge.rootfs.parts import Parts


def fake_step(
    name: str,
    files: Mapping[str, bytes],
    *,
    arch: str = "",
    variant: str = "",
    uses: Mapping[str, Use] | None = None,
    code: tuple[str, ...] = (),
) -> Step:
    """Return a step that makes these files; its key follows from their contents."""

    def make(out: Path, _used: Used, _runtime: Runtime) -> None:
        for file, content in files.items():
            (out / file).write_bytes(content)

    inputs = {file: content.hex() for file, content in files.items()}
    return Step(name, lambda _: inputs, make, code, tuple(files), arch, variant, dict(uses or {}))


def fake_parts(agent: bytes = b"agent") -> Parts:
    """Return the parts of a guest: an agent of this content, and no packages."""
    return Parts(fake_step("agent", {"agent": agent}))


def fake_kernel(config: Mapping[str, str]) -> Step:
    """Return a kernel with a configuration alone."""
    text = "".join(f"{name}={value}\n" for name, value in config.items() if value != "n")
    return fake_step("kernel", {"config": text.encode()})
