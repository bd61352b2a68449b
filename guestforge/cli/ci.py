"""`./invoke ci.matrix`: what it is asked for, and what it prints."""

from guestforge.ci.formats import render
from guestforge.ci.matrix import make_matrix
from guestforge.core.runtime import HOST
from guestforge.project.options import MatrixOptions


def matrix(asked: MatrixOptions) -> None:
    """Print what a CI system has to build."""
    found = make_matrix(asked.project, asked.arches, asked.guests, asked.changed_since, HOST)
    print(render(found, asked.format_))
