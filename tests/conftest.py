"""What all tests share: a loopback interface, which a network namespace of one's own begins without; one thread."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

# Before anybody imports torch: with more, tests that run side by side wait for each other's threads, and sums differ.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1


@pytest.fixture(scope="session", autouse=True)
def loopback():
    """Bring the interface up where it is down (`unshare -n` by root leaves it so)."""
    if sys.platform != "linux":
        return
    # Who may not do so keeps all tests that need no network; the distributed ones then fail for themselves.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, GET_FLAGS, request))[1]
        if not flags & UP:
            fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", flags | UP))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, and no quarrel over few cores."""
    import torch  # here, so that tests without it need not pay for it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
