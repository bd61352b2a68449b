"""The one error family. The exit code of a run is the code of the error that ended it.

GuestforgeError
  UserError                 1: the input or the environment
  BuildError                2: a step
  CheckError                3: a boot
    vmm.errors.MachineError       QEMU, or a program behind one of its devices
    agent.errors.AgentError       the guest's agent, with one for each way of failing below it
    check.engine.CheckFailure     a check's proof; RunEnded, below it, ends all checks
  vhost.core.errors.VhostError    what a guest or QEMU sends to our devices, in their own processes
"""


class GuestforgeError(Exception):
    """Something that a person must be told: what is wrong, where, and what would fix it.

    `hint` is the remedy, `excerpt` the lines that show the fault (a compiler's message, a console's last lines).
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None, excerpt: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.excerpt = excerpt

    def __reduce__(self) -> tuple[object, ...]:
        """Return what pickle makes an equal error of: a step that is made in another process raises it there."""
        return (_blank, (type(self), self.message), self.__dict__)

    def report(self) -> str:
        """Return the text for the terminal: message, then excerpt, then hint."""
        parts = [f"error: {self.message}"]
        if self.excerpt:
            parts += ["", *(f"    {line}" for line in self.excerpt.rstrip().splitlines()), ""]
        if self.hint:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)


def _blank(kind: type[GuestforgeError], message: str) -> GuestforgeError:
    return kind.__new__(kind, message)


class UserError(GuestforgeError):
    """The input or the environment is wrong: nothing was built."""

    exit_code = 1


class BuildError(GuestforgeError):
    """A step of the build failed."""

    exit_code = 2


class CheckError(GuestforgeError):
    """It was built, but a boot check failed."""

    exit_code = 3
