"""Messages between a server and its workers over TCP: a few named values and tensors; what they mean is not known.

A message is the length of a JSON object, the object, and the bytes of its tensors, whose shapes both sides know. It
holds no pickle, so nothing that arrives is run.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import Store

from groundup.strategy.meeting import meeting_store

_LENGTH = struct.Struct("!QQ")
_MOST = 1 << 20
"""Bytes of a message's object; more is no message of ours."""

_STALLED_SECONDS = 60.0
"""A peer that sends or takes nothing for so long in the middle of a message is gone."""

_ADDRESS = "groundup/async_sgd"


class Peer:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def fileno(self) -> int:
        """Of the socket, for a selector."""
        return self._socket.fileno()

    def send(self, values: dict[str, Any], tensors: Sequence[Tensor] = ()) -> None:
        """Send a message.

        Raises:
            OSError: the other end is gone.
        """
        self._socket.settimeout(_STALLED_SECONDS)
        parts = [_bytes_of(tensor.detach().cpu().contiguous()) for tensor in tensors]
        head = json.dumps(values).encode()
        self._socket.sendall(_LENGTH.pack(len(head), sum(len(part) for part in parts)) + head)
        for part in parts:
            self._socket.sendall(part)

    def receive(self, seconds: float) -> tuple[dict[str, Any], memoryview]:
        """The next message: its values, and the bytes of its tensors (see `unpack`).

        Args:
            seconds: to wait for its beginning.

        Raises:
            OSError: the other end is gone, silent, or none of ours.
        """
        self._socket.settimeout(seconds)
        first = self._read(1)
        self._socket.settimeout(_STALLED_SECONDS)
        head, body = _LENGTH.unpack(bytes(first) + bytes(self._read(_LENGTH.size - 1)))
        if head > _MOST:
            raise ConnectionError("no message of groundup's")
        try:
            values = json.loads(bytes(self._read(head)))
        except ValueError:
            raise ConnectionError("no message of groundup's") from None
        return values, self._read(body)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read(self, count: int) -> memoryview:
        view = memoryview(bytearray(count))
        done = 0
        while done < count:
            got = self._socket.recv_into(view[done:])
            if not got:
                raise ConnectionError("the connection was closed")
            done += got
        return view


def unpack(body: memoryview, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors on the CPU, of the shapes and dtypes of others.

    Raises:
        OSError: they are of other sizes than these.
    """
    if len(body) != sum(tensor.numel() * tensor.element_size() for tensor in like):
        raise ConnectionError("tensors of another network")
    found, at = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        part = body[at : at + size]
        found.append(torch.frombuffer(part, dtype=tensor.dtype).view(tensor.shape) if size else tensor.detach().cpu())
        at += size
    return found


def listen(port: int, seconds: float) -> socket.socket:
    """A socket on which workers are awaited, told to all ranks where the job's ranks meet.

    Raises:
        ConfigError: where ranks meet, rank 0 cannot listen.
        OSError: the port is taken.
    """
    family, *_, address = socket.getaddrinfo(os.environ["MASTER_ADDR"], port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server((str(address[0]), port), family=family)
    _meeting(seconds).set(_ADDRESS, f"{address[0]} {listener.getsockname()[1]}")
    return listener


def connect(seconds: float) -> Peer:
    """A connection to where the server listens now.

    Raises:
        ConfigError: where ranks meet, nobody is.
        OSError: it does not, at present.
        RuntimeError: nobody told of a server in time.
    """
    host, port = _meeting(seconds).get(_ADDRESS).decode().split()
    return Peer(socket.create_connection((host, int(port)), timeout=_STALLED_SECONDS))


@functools.cache
def _meeting(seconds: float) -> Store:
    return meeting_store(timedelta(seconds=seconds))


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
