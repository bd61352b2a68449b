"""Runtimes that note what is started, or have it otherwise than this host."""

from guestforge.core.runtime import HOST


class Noting:
    """The host, but for what is given; `started` has the first word of each program that ran here."""

    name = "host"

    def __init__(self, *, find_tool=HOST.find_tool, run=HOST.run, spawn=HOST.spawn):
        self.started = []
        self.find_tool, self._run, self._spawn = find_tool, run, spawn

    def meets(self, need):
        return HOST.meets(need)

    def run(self, argv, **how):
        self.started.append(str(argv[0]))
        return self._run(argv, **how)

    def spawn(self, argv, **how):
        self.started.append(str(argv[0]))
        return self._spawn(argv, **how)


def nowhere():
    """A runtime without a program."""
    return Noting(find_tool=lambda _: None)
