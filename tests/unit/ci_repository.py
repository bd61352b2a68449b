"""A repository of git's with a copy of the checkout, or with a project of a user's, for tests of `ci.matrix`."""

import os
import shutil
import subprocess
from pathlib import Path

from checkout import REPOSITORY

from guestforge.ci.matrix import make_matrix
from guestforge.ci.revision import OF_OURS
from guestforge.core.runtime import HOST
from guestforge.project.folder import FILE, Project
from guestforge.project.layout import OVERLAYS
from guestforge.project.load import load_file
from guestforge.project.lock import LOCK
from guestforge.project.models import Settings

GUEST = 'description = "one of the tests"\nkernel = "default"\nrootfs = "minimal"\n'
NOT_OURS = {Path(OVERLAYS.name), Path(LOCK)}  # what a project may have, and the checkout has not
NO_CACHES = shutil.ignore_patterns("__pycache__")


def git(place, *words):
    settings = ("user.name=t", "user.email=t@example.org", "init.defaultBranch=main", "core.fsync=none", "gc.auto=0")
    given = [word for setting in settings for word in ("-c", setting)]
    done = subprocess.run(["git", *given, *words], cwd=place, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(place, **files):
    """Write files, in whose names `__` stands for `/`; commit all; return the commit."""
    for name, text in files.items():
        write(place / name.replace("__", "/"), text)
    git(place, "add", "--all")
    git(place, "commit", "--allow-empty", "--quiet", "--message", "one")
    return git(place, "rev-parse", "HEAD")


def write(path, text):
    """Write a file anew: the one that is there may be a link that other tests share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)


def linked_copy(original, place, **how):
    """Copy a directory by hard links, at a tenth of a copy's cost; `write` and git leave the original's files alone."""
    return Path(shutil.copytree(original, place, copy_function=os.link, **how))


def edit(place, name, old, new):
    """Change a file of a repository where it has a text, once."""
    path = place / name
    text = path.read_text()
    assert old in text, (name, old)
    write(path, text.replace(old, new, 1))


def copy_of_the_checkout(place):
    """Fill a directory with what the checkout is made of, committed."""
    ours = [name for name in OF_OURS if name not in NOT_OURS]
    for name in (*ours, Path("tasks.py"), Path(FILE)):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=NO_CACHES)
        else:
            shutil.copy(source, place / name)
    write(place / ".gitignore", "__pycache__/\n")
    git(place, "init", "--quiet")
    commit(place)
    return place


def project_in(root, checkout=REPOSITORY):
    return Project(root, load_file(Settings, root / FILE), checkout)


def matrix_of(project, arches, since=None, guests=()):
    return make_matrix(project, arches, guests, since, HOST)
