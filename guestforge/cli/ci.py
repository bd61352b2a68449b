"""`./invoke ci.matrix`, `ci.init` and `ci.summary`: what they are asked for, and what they print."""

from guestforge.ci import init as workflows
from guestforge.ci.formats import render
from guestforge.ci.matrix import make_matrix
from guestforge.ci.reports import read_guests
from guestforge.ci.summary import summary as markdown
from guestforge.core.progress import say
from guestforge.core.runtime import HOST
from guestforge.project.options import InitOptions, MatrixOptions, SummaryOptions


def matrix(asked: MatrixOptions) -> None:
    """Print what a CI system has to build."""
    found = make_matrix(asked.project, asked.arches, asked.guests, asked.changed_since, HOST)
    print(render(found, asked.format_))


def init(asked: InitOptions) -> None:
    """Write workflows into the project's repository."""
    for file in workflows.init(asked.project, asked.system, HOST):
        say(f"{file.path}: {'written' if file.new else 'as it was'}")


def summary(asked: SummaryOptions) -> None:
    """Print what became of the guests in an output directory."""
    print(markdown(read_guests(asked.output)), end="")
