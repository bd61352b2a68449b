"""What can be wrong with what a front end or a guest sends."""

from guestforge.core.errors import GuestforgeError


class VhostError(GuestforgeError):
    """A device can't go on; the message says why."""


class ProtocolError(VhostError):
    """A vhost-user message is malformed or against the protocol: the session with that front end ends."""


class RefusedError(VhostError):
    """A vhost-user request that is in order but that we do not serve: it is answered so, and the session goes on."""


class MemoryMapError(VhostError):
    """An address that is not in the memory which the front end gave us."""


class RingError(VhostError):
    """A virtqueue is malformed: the device stops serving it until the front end sets it up anew."""


class PacketError(VhostError):
    """One vsock packet is malformed: it is dropped."""
