"""How long a request may take, which the file server knows and the device goes by."""

from enum import Enum


class Work(Enum):
    """A kind of work: none may hold up another. The replies to all but QUICK ones are short, without file data."""

    QUICK = 1
    SYNC = 2  # it may wait for the disk
    MOVE = 3  # it may move a whole file
    LOCK = 4  # it may wait for somebody's lock
