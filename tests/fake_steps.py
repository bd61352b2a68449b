"""Steps in the place of those that take long: each makes files with a content that a test chooses."""

from guestforge.core.step import Step
from guestforge.rootfs.parts import Parts


def fake_step(name, files, *, arch="", variant="", uses=(), code=()):
    """Return a step that makes these files; its key follows from their contents."""

    def make(out, _used, _runtime):
        for file, content in files.items():
            (out / file).write_bytes(content)

    inputs = {file: content.hex() for file, content in files.items()}
    return Step(name, lambda _: inputs, make, code, tuple(files), arch, variant, dict(uses))


def fake_parts(agent=b"agent"):
    """Return the parts of a guest: an agent of this content, and no packages."""
    return Parts(fake_step("agent", {"agent": agent}))


def fake_kernel(config):
    """Return a kernel with a configuration alone."""
    text = "".join(f"{name}={value}\n" for name, value in config.items() if value != "n")
    return fake_step("kernel", {"config": text.encode()})
