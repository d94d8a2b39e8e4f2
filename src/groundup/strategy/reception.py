"""The server's end of all connections with its workers; it knows no Lightning, and what gradients are for.

It does one thing at a time, so weights are never read while they change. Whoever hangs up is dead, and its step is
drawn again; whoever says hello is a worker.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from groundup.core.errors import UserError
from groundup.core.progress import Progress
from groundup.strategy import wire
from groundup.strategy.ledger import Ledger


class Arrived:
    """A gradient, None for a parameter that has none, with what its worker measured."""

    def __init__(self, gradients: list[Tensor | None], means: dict[str, float], stale: int) -> None:
        self.gradients, self.means, self.stale = gradients, means, stale


class Reception:
    """The server's end of all connections."""

    arrived: Arrived

    def __init__(self, ledger: Ledger, weights: Sequence[Tensor], run: str, port: int, seconds: float) -> None:
        self.ledger, self._weights, self._run, self._seconds = ledger, weights, run, seconds
        self._listener = wire.listen(port, seconds)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._since: dict[wire.Peer, float] = {}
        self._waiting: list[wire.Peer] = []
        self._alone = time.monotonic()

    @property
    def workers(self) -> int:
        """How many are connected."""
        return len(self._since)

    def wait(self, given_up: Callable[[], bool]) -> int | None:
        """Answer workers until a gradient has come; the number of its step, None where the job is to end.

        Raises:
            UserError: for too long there was no worker.
        """
        while not given_up():
            self._answer()
            for key, _ in self._selector.select(timeout=1.0):
                if key.fileobj is self._listener:
                    self._since[self._welcome()] = time.monotonic()
                elif (number := self._hear(key.data)) is not None:
                    return number
            self._bury()
        return None

    def end(self, clock: Progress) -> None:
        """Let every worker finish what it is at, and tell it that there is no more."""
        for peer in list(self._since):
            try:
                if peer not in self._waiting:
                    peer.receive(self._seconds)
                peer.send({"clock": vars(clock)})
            except OSError:
                self._lose(peer)
        self.hang_up()

    def hang_up(self) -> None:
        """Close every connection."""
        self._selector.close()
        self._listener.close()
        for peer in self._since:
            peer.close()
        self._since.clear()

    def _welcome(self) -> wire.Peer:
        peer = wire.Peer(self._listener.accept()[0])
        self._selector.register(peer, selectors.EVENT_READ, peer)
        return peer

    def _hear(self, peer: wire.Peer) -> int | None:
        """Take a message; the number of the step whose gradient it brings, if it does."""
        try:
            values, body = peer.receive(self._seconds)
            if "run" in values:
                self._greet(peer, values)
                return None
            there = [weight for weight, is_there in zip(self._weights, values["there"], strict=True) if is_there]
            found = iter(wire.unpack(body, there))
        except OSError as error:
            self._lose(peer, str(error))
            return None
        gradients = [next(found) if is_there else None for is_there in values["there"]]
        number, stale = self.ledger.push(peer)
        self.arrived = Arrived(gradients, values["means"], stale)
        self._ready(peer)
        return number

    def _greet(self, peer: wire.Peer, hello: dict[str, Any]) -> None:
        end = self.ledger.end
        if hello["run"] != self._run or hello["end"] > end:
            peer.send({"refused": f"rank 0 trains {self._run} to step {end}, and a worker another run or further"})
            self._lose(peer)
        elif hello["end"] < end:
            peer.send({"past": True})
            self._lose(peer)
        else:
            self._ready(peer)

    def _ready(self, peer: wire.Peer) -> None:
        self._since[peer] = time.monotonic()
        self._waiting.append(peer)

    def _answer(self) -> None:
        """Give steps to those who wait for one, first come first served, as far as may be."""
        for peer in list(self._waiting):
            drawn = self.ledger.draw(peer)
            if drawn is None:
                return
            self._waiting.remove(peer)
            self._since[peer] = time.monotonic()
            try:
                peer.send({"number": drawn.number}, self._weights)
            except OSError as error:
                self._lose(peer, str(error))

    def _bury(self) -> None:
        """Give up those who are silent for too long, and the run where nobody is left."""
        now = time.monotonic()
        for peer, since in list(self._since.items()):
            if peer not in self._waiting and now - since > self._seconds:
                self._lose(peer, "it is silent")
        if self._since:
            self._alone = now
        elif now - self._alone > self._seconds:
            raise UserError("strategy=async_sgd", f"no worker for {self._seconds:.0f} s", "start workers")

    def _lose(self, peer: wire.Peer, why: str = "") -> None:
        self._selector.unregister(peer)
        peer.close()
        del self._since[peer]
        if peer in self._waiting:
            self._waiting.remove(peer)
        number = self.ledger.lose(peer)
        if number is not None:
            print(f"a worker is gone ({why}); step {number} is drawn again", flush=True)
