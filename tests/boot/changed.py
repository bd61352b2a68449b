"""Our programs for guests, built from sources of which a part was changed."""

import shutil

from guestforge.image.initrd_step import INITRD, initrd_step
from guestforge.project.layout import AGENT_SOURCES
from guestforge.rootfs.agent import AGENT, program_step
from guestforge.rootfs.parts import Parts


def changed_sources(directory, file, changes):
    """Return a copy of our Go sources with parts of a file changed."""
    sources = directory / "agent"
    shutil.copytree(AGENT_SOURCES, sources)
    place = sources / file
    text = place.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    place.write_text(text)
    return sources


def changed_initrd(one, directory, file, changes):
    """Return the initrd of a pipeline's guest with the real agent, built with parts of a file changed."""
    sources = changed_sources(directory, file, changes)
    parts = Parts(program_step(one.store, one.arch, AGENT, one.jobs, sources))
    return one.entry(initrd_step(one.arch, one.steps.rootfs, parts, one.steps.kernel)).file(INITRD)
