"""The virtio-fs device: requests of the guest's rings to a file server, and its replies back (virtio 1.2, 5.11).

What is in a request is the server's business. It says of each what kind of work it is, so that those that may take
long do not hold up the rest: these run in threads, on copies, so that a ring may stop and start meanwhile. Requests
that wait for a lock are no thread's work, and no other request waits for them.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from guestforge.vhost.core.errors import MemoryMapError, RingError
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import Loop
from guestforge.vhost.core.scattered import scatter
from guestforge.vhost.core.virtqueue import Chain
from guestforge.vhost.core.vring import Vring
from guestforge.vhost.fs.fuse.protocol import MAX_PAGES, MAX_WRITE
from guestforge.vhost.fs.work import Work
from guestforge.vhost.fs.workers import Workers

HIPRIO = 0  # forgets and interrupts; the request rings follow it
# Front ends that want several request rings get them, all are served by the one thread; we ask for one.
MAX_REQUEST_RINGS = 64
REQUEST_RINGS = 1
TAG_SIZE = 36  # bytes of the tag in the configuration space

SLACK = 64 * 1024  # for what comes with them
MAX_REQUEST = MAX_WRITE + SLACK
LARGEST_PAGE = 64 * 1024  # of the guests' pages. Nothing is allocated for a reply, so its size costs nothing.
MAX_REPLY = MAX_PAGES * LARGEST_PAGE + SLACK

# Of requests that are not quick
SLOW_REPLY = 256  # bytes; the longest of these has 24
SLOW_REQUEST = 4096  # bytes; the longest has 40 + 56
MAX_WORKERS = 64  # threads for Work.SYNC, and as many for Work.MOVE
MAX_SLOW = 512  # requests of both kinds at once; above it the rings are left alone

REQUESTS_AT_ONCE = 64  # of a ring, then the others and the front end have their turn
REQUESTS_A_FLUSH = 8
BYTES_A_FLUSH = 128 * 1024  # read or written: so much has taken long enough for the guest to be told


class FileServer(Protocol):
    """What serves the requests, see guestforge/vhost/fs/fuse. All of it may be called in any thread."""

    def accept(self, request: list[memoryview]) -> Work:
        """Put what decides about a request out of the guest's reach, and return what kind of work it is.

        Raises ValueError for one that is too short to be any.
        """

    def serve(self, request: Sequence[memoryview], reply: Sequence[memoryview]) -> int:
        """Serve a request and return how many bytes the reply has, 0 for none. Raises nothing for what a guest sends.

        May take as long as the disk, but waits for nobody's lock.
        """

    def wait(self, request: bytes, room: int, done: Callable[[bytes], None], *, patient: bool) -> bytes | None:
        """Serve a request that may wait for a lock; return the reply, or None and call `done` with it later, once.

        Without `patient` a request that would wait is refused.
        """

    def reset(self) -> None:
        """Forget the guest: its driver begins anew, what it had open is closed, what waits for a lock gives up."""


class Job:
    """A slow request: where its reply goes, and the reply once it is there."""

    __slots__ = ("fault", "head", "locking", "reply", "request", "ring", "run", "session", "size")

    def __init__(self, ring: Vring, head: int, request: bytes, size: int, session: int) -> None:
        self.ring = ring
        self.run = ring.run
        self.head = head
        self.request = request
        self.size = size
        self.session = session
        self.reply = b""
        self.fault: Exception | None = None
        self.locking = False  # it waits for a lock, and no thread has it


class FsDevice:
    """A virtio-fs device for one guest.

    `tag` is what the guest mounts, for front ends that ask the device for its configuration space; QEMU has it from
    its own options, and the device then offers none.
    """

    features = 0
    ring_count = 1 + MAX_REQUEST_RINGS

    def __init__(self, server: FileServer, loop: Loop, log: Log, *, tag: str = "") -> None:
        self._server = server
        self._loop = loop
        self._log = log
        self._config = _config(tag) if tag else b""
        self._running: dict[int, Vring] = {}
        self._syncs, self._moves = Workers(MAX_WORKERS), Workers(MAX_WORKERS)
        self._slow = 0  # requests that these have, up to their replies
        self._paused: dict[int, Vring] = {}  # rings that wait until there are fewer
        self._locking: Counter[int] = Counter()  # requests that wait for a lock, by their ring
        self._done: deque[Job] = deque()  # by other threads
        self._held: list[Job] = []  # done while their ring was stopped
        self._session = 0  # counts the guest's drivers: replies to an earlier one are dropped
        self._over = False  # no ring runs: the next start shows whether the guest was paused or reset

    # From the core

    def config(self) -> bytes:
        """Return the configuration space: tag and number of request rings."""
        return self._config

    def started(self, ring: Vring) -> None:
        """Begin to use a ring. If the first that starts does not go on where it stopped, the guest's driver is new.

        A ring that was never used looks as if it went on; so the answer is that of the first that was.
        """
        self._running[ring.index] = ring
        if not ring.resumed:
            if self._over:
                self._begin_anew()
            return
        held, self._held = self._held, []
        self._done.extend(held)

    def stopped(self, ring: Vring) -> None:
        """Stop using a ring. What workers have of it goes on, for the guest may only be paused."""
        ring.flush()
        self._running.pop(ring.index, None)
        self._over = self._over or not self._running

    def kicked(self, ring: Vring) -> None:
        """Serve a ring until it is empty, not for too long."""
        ring.spare_kicks()
        waiting = size = 0  # not flushed: requests and bytes
        for _ in range(REQUESTS_AT_ONCE):
            if self._slow >= MAX_SLOW:
                self._paused[ring.index] = ring
                ring.flush()
                return
            chain = ring.pop()
            if chain is None:
                ring.flush()
                if ring.want_kicks():
                    continue
                return
            size += self._request(ring, chain)
            waiting += 1
            if waiting == REQUESTS_A_FLUSH or size >= BYTES_A_FLUSH:
                ring.flush()
                waiting = size = 0
        self._loop.call_soon(lambda: self._go_on(ring))

    def flush(self) -> None:
        """Give replies of slow requests to the guest: called after each batch of events."""
        while self._done:
            self._deliver(self._done.popleft())
        for ring in list(self._running.values()):
            ring.flush()

    def close(self) -> None:
        """Drop what waits. The server is its owner's to close."""
        self._session += 1
        self._drop()

    # Requests

    def _go_on(self, ring: Vring) -> None:
        if ring.index in self._running:
            self.kicked(ring)

    def _request(self, ring: Vring, chain: Chain) -> int:
        """Serve one request, or give it to a worker; return how many bytes went either way."""
        try:
            if chain.readable_size > MAX_REQUEST or chain.writable_size > MAX_REPLY:
                raise ValueError("it is too large")
            work = self._server.accept(chain.readable)
        except ValueError as error:
            sizes = f"{chain.readable_size} bytes with room for {chain.writable_size}"
            self._log.say(f"request of {sizes} refused: {error}")
            ring.push(chain.head, 0)
            return 0
        if work is not Work.QUICK:
            self._begin_slow(ring, chain, work)
            return 0
        written = self._server.serve(chain.readable, chain.writable)
        ring.push(chain.head, written)
        return chain.readable_size + written

    def _begin_slow(self, ring: Vring, chain: Chain, work: Work) -> None:
        if chain.readable_size > SLOW_REQUEST:
            self._log.say(f"request of {chain.readable_size} bytes refused: one of its kind has at most {SLOW_REQUEST}")
            ring.push(chain.head, 0)
            return
        request = b"".join(chain.readable)
        job = Job(ring, chain.head, request, min(chain.writable_size, SLOW_REPLY), self._session)
        if work is Work.LOCK:
            self._lock(job, chain)
            return
        self._slow += 1
        (self._syncs if work is Work.SYNC else self._moves).submit(lambda: self._work(job))

    def _lock(self, job: Job, chain: Chain) -> None:
        """Serve a request that may wait for a lock.

        A quarter of a ring is kept free of those that do: or nobody could say any more that the lock is given up.
        """
        ring = job.ring
        patient = self._locking[ring.index] < ring.size * 3 // 4

        def done(reply: bytes) -> None:
            job.reply = reply
            self._done.append(job)
            self._loop.wake()

        reply = self._server.wait(job.request, job.size, done, patient=patient)
        if reply is not None:
            ring.push(job.head, scatter(chain.writable, reply))
            return
        job.locking = True
        self._locking[ring.index] += 1

    def _work(self, job: Job) -> None:
        """In a worker: serve a request on copies, and tell the loop."""
        reply = memoryview(bytearray(job.size))
        try:
            if job.session == self._session:
                size = self._server.serve((memoryview(job.request),), (reply,) if job.size else ())
                job.reply = bytes(reply[:size])
        except Exception as fault:
            job.fault = fault
        self._done.append(job)
        self._loop.wake()

    def _deliver(self, job: Job) -> None:
        """Write a reply to where the guest waits for it; keep it while its ring is stopped.

        One to an earlier driver, or to a ring that has begun anew since, is dropped: the head, if it is out at all, is
        another request's.
        """
        current = job.session == self._session and job.run == job.ring.run
        queue = job.ring.queue
        if current and queue is None:
            self._held.append(job)
            return
        self._count_off(job)
        if not current or queue is None:
            return
        if job.fault is not None:
            raise job.fault
        try:
            chain = queue.chain(job.head)
        except (RingError, MemoryMapError) as error:
            job.ring.fail(f"a chain that we had not given back was changed: {error.message}")
            return
        job.ring.push(job.head, scatter(chain.writable, job.reply))

    def _count_off(self, job: Job) -> None:
        """Take note that nothing is kept of a request any more; rings that waited for that go on."""
        if job.locking:
            self._locking[job.ring.index] -= 1
            return
        self._slow -= 1
        while self._paused and self._slow < MAX_SLOW:
            ring = self._paused.popitem()[1]
            self._loop.call_soon(partial(self._go_on, ring))

    def _begin_anew(self) -> None:
        self._over = False
        self._session += 1
        self._drop()
        self._server.reset()

    def _drop(self) -> None:
        """Forget what no thread has begun, and what waits for a ring."""
        self._slow -= self._syncs.drop() + self._moves.drop()
        held, self._held = self._held, []
        for job in held:
            self._count_off(job)


def _config(tag: str) -> bytes:
    """Return struct virtio_fs_config: the tag, NUL-padded, and the number of request rings."""
    return tag.encode().ljust(TAG_SIZE, b"\0") + REQUEST_RINGS.to_bytes(4, "little")
