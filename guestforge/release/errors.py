"""What is wrong with a release."""

from guestforge.core.errors import CheckError


class UnverifiedError(CheckError):
    """A release is not what it should be: a file of it was changed, is missing, or is not proven."""
