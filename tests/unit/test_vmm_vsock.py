"""Which vsock device is chosen, and how a guest's ports are reached."""

import errno
import socket
import threading
from functools import partial
from pathlib import Path

import pytest

from guestforge.agent.transport import hybrid_connect, vsock_connect
from guestforge.vmm import vsock
from guestforge.vmm.plan import LAST_GUEST_CID, Sockets, Vsock
from guestforge.vmm.vsock import choose_vsock, dial


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "vhost-vsock"
    path.write_bytes(b"")
    return path


def test_without_the_kernels_device_it_is_our_own_and_says_why(tmp_path):
    chosen = choose_vsock(tmp_path / "none")
    assert chosen.vsock == Vsock("builtin", 3)
    assert chosen.describe() == f"guestforge vhost-user-vsock (no {tmp_path / 'none'})"


def test_device_that_is_none_says_why(device):
    chosen = choose_vsock(device)  # a plain file: the ioctl fails
    assert chosen.vsock.kind == "builtin"
    assert "Inappropriate ioctl" in chosen.reason


def test_usable_device_is_taken_with_a_cid_that_is_free(device, monkeypatch):
    taken = []

    def claim(_descriptor, request, argument):
        assert request == 0x4008AF60
        taken.append(int.from_bytes(argument, "little"))
        if len(taken) < 4:
            raise OSError(errno.EADDRINUSE, "in use")

    monkeypatch.setattr(vsock.fcntl, "ioctl", claim)
    chosen = choose_vsock(device)
    assert chosen.vsock == Vsock("kernel", taken[-1])
    assert len(taken) == 4
    assert 1000 < taken[-1] <= LAST_GUEST_CID
    assert chosen.describe() == f"kernel vhost-vsock ({device} is usable)"


def test_device_on_which_every_cid_is_taken_is_not_used(device, monkeypatch):
    def claim(*_):
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(vsock.fcntl, "ioctl", claim)
    assert choose_vsock(device).vsock.kind == "builtin"


def test_each_kind_has_its_way_to_a_port():
    sockets = Sockets(Path("/run/x"))
    kernel, builtin = dial(Vsock("kernel", 77), sockets, 1024), dial(Vsock("builtin"), sockets, 1024)
    assert isinstance(kernel, partial)
    assert isinstance(builtin, partial)
    assert (kernel.func, kernel.args) == (vsock_connect, (77, 1024))
    assert (builtin.func, builtin.args) == (hybrid_connect, (Path("/run/x/vsock"), 1024))


def test_connection_through_the_hybrid_socket(tmp_path):
    sockets = Sockets(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sockets.vsock))
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(64) == b"CONNECT 1024\n"
                connection.sendall(b"OK 5\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        with vsock.connect(Vsock("builtin"), sockets, 1024, timeout=5) as connection:
            connection.setblocking(True)
            assert connection.recv(5) == b"hello"
        thread.join()
