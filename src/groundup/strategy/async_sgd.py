"""Asynchronous SGD: a server keeps the weights, workers compute gradients; what is minimised they do not know.

A worker says hello or hands in a gradient, and the server answers with a step's number and the weights as they are, at
once or when the bound on staleness allows (see `ledger` and `reception`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from typing_extensions import override

from groundup.core import ranks
from groundup.core.errors import ConfigError, UserError
from groundup.core.progress import Progress
from groundup.strategy import wire
from groundup.strategy.ledger import Ledger
from groundup.strategy.reception import Reception
from groundup.strategy.single import Single
from groundup.strategy.trained import trained

_AGAIN_SECONDS = 0.1
_LONGEST = 16
"""Updates of more staleness than this are counted together."""


class Server(Single):
    """Applies gradients as they come, each as a step of the run; it computes none.

    Args:
        device: where the weights are.
        port: to listen on, 0: any.
        bound: the most staleness, None: any.
        seconds: after which a silent worker counts as dead, and a server without workers gives up.

    Attributes:
        asked: whether the run is to end before its next step; it is looked at while no gradient comes, too.
    """

    own = ""
    asked: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(self, device: torch.device, port: int, bound: int | None, seconds: float) -> None:
        super().__init__(device)
        self._port, self._bound, self._seconds = port, bound, seconds
        self._missing: list[int] = []
        self._reception: Reception | None = None
        self._stale: Counter[int] = Counter()

    @override
    def process_dataloader(self, dataloader: Any) -> Any:
        """In the place of the training steps, those that workers have done, as they come."""
        module = self.lightning_module
        assert module is not None
        if not module.trainer.training:
            return dataloader
        clock, weights = trained(module).progress, _weights(self)
        end = clock.steps + len(dataloader)
        ledger = Ledger(clock.steps + len(self._missing), self._missing, end, self._bound)
        self._reception = Reception(ledger, weights, trained(module).folder.name, self._port, self._seconds)
        return _Arrivals(dataloader, self._reception, lambda: self.asked())

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> None:
        """Apply the gradient that arrived."""
        del kwargs
        assert self._reception is not None
        module, arrived = trained(self.lightning_module), self._reception.arrived
        for weight, gradient in zip(_weights(self), arrived.gradients, strict=True):
            weight.grad = None if gradient is None else gradient.to(weight.device)
        means = {name: torch.tensor(value, dtype=torch.float64) for name, value in arrived.means.items()}
        module.update(args[0], means)
        self._stale[arrived.stale] += 1
        if module.progress.steps % module.setting.log_every == 0 or module.progress.tokens >= module.total.tokens:
            module.write({**_histogram(self._stale), "async/workers": float(self._reception.workers)})
            self._stale.clear()

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Hang up, so that workers end too."""
        if self._reception is not None:
            self._reception.hang_up()
        super().on_exception(exception)

    @override
    def teardown(self) -> None:
        """Tell the workers that this segment is over."""
        if self._reception is not None:
            self._reception.end(trained(self.lightning_module).progress)
            self._reception = None
        super().teardown()

    def state(self) -> dict[str, Tensor]:
        """The counter of draws, and the numbers below it that are not done, which are drawn first after a start."""
        assert self._reception is not None
        ledger = self._reception.ledger
        return {"drawn": torch.tensor([ledger.following, *ledger.missing], dtype=torch.int64)}

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Room for these numbers, where there are any."""
        return {name: torch.empty(shapes[name], dtype=torch.int64) for name in ("drawn",) if name in shapes}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take the numbers back; another strategy's checkpoint has none, as it leaves nothing out."""
        self._missing = tensors["drawn"].tolist()[1:] if tensors else []


class Worker(Single):
    """Computes gradients of the steps it draws, at weights it gets with them.

    Args:
        device: to compute on.
        seconds: to wait for the server.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        super().__init__(device)
        self.global_rank, self._seconds = ranks.rank(), seconds
        self._means: dict[str, float] = {}

    @property
    @override
    def is_global_zero(self) -> bool:
        """The server is."""
        return False

    @override
    def process_dataloader(self, dataloader: Any) -> Any:
        """In the place of the training steps in their order, those that are drawn."""
        return _Draws(dataloader, self)

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> None:
        """Compute a gradient; it is handed in when the next step is drawn."""
        del kwargs
        with self.precision_plugin.train_step_context():
            sums = trained(self.lightning_module).gradients(args[0])
        self._means = {name: float(value / args[0].targets) for name, value in sums.items()}

    def draws(self, steps: Any) -> Iterator[Any]:
        """Steps by the numbers drawn, until there is none left in the segment."""
        module, weights = trained(self.lightning_module), _weights(self)
        first = module.progress
        server, (answer, body) = self._begin({"run": module.folder.name, "end": first.steps + len(steps)})
        while "number" in answer:
            with torch.no_grad():
                for weight, value in zip(weights, wire.unpack(body, weights), strict=True):
                    weight.copy_(value)
            yield steps[answer["number"] - first.steps]
            there = [weight.grad is not None for weight in weights]
            try:
                server.send({"means": self._means, "there": there}, [w.grad for w in weights if w.grad is not None])
                answer, body = server.receive(self._seconds)
            except OSError as error:
                what = f"the server is gone ({error})"
                raise UserError(f"rank {self.global_rank}", what, "start it again, and the workers") from None
            for weight in weights:
                weight.grad = None
        server.close()
        module.progress = self._clock(answer, first, steps)

    def _clock(self, answer: dict[str, Any], first: Progress, steps: Any) -> Progress:
        """Where the server stands when it has no more steps, or the end of a segment that it is past."""
        if "refused" in answer:
            raise ConfigError("strategy=async_sgd", answer["refused"], "start every rank with the same command")
        if "past" in answer:
            step, many = steps[0], len(steps)
            return first.after(steps=many, samples=many * step.samples, tokens=many * step.tokens)
        return Progress(**answer["clock"])

    def _begin(self, hello: dict[str, Any]) -> tuple[wire.Peer, tuple[dict[str, Any], memoryview]]:
        """The server, and its first answer; between segments, and before it starts, there is none for a while."""
        limit = time.monotonic() + self._seconds
        while True:
            try:
                server = wire.connect(self._seconds)
                server.send(hello)
                return server, server.receive(self._seconds)
            except (OSError, RuntimeError) as error:  # the latter is the store's
                if time.monotonic() > limit or isinstance(error, RuntimeError):
                    what = f"there is no server ({error})"
                    raise UserError(f"rank {self.global_rank}", what, "start rank 0, then the workers") from None
                time.sleep(_AGAIN_SECONDS)


class _Draws:
    """A worker's loader."""

    def __init__(self, steps: Any, worker: Worker) -> None:
        self._steps, self._worker = steps, worker

    def __len__(self) -> int:
        """More than any worker draws, as after its last step it asks once more."""
        return len(self._steps) + 1

    def __iter__(self) -> Iterator[Any]:
        return self._worker.draws(self._steps)


class _Arrivals:
    """The server's loader: steps without their micro-batches, each when its gradient has come."""

    def __init__(self, steps: Any, reception: Reception, asked: Callable[[], bool]) -> None:
        self._steps, self._reception, self._asked = steps, reception, asked

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Any]:
        like = replace(self._steps[0], micro_batches=[])  # in a segment all have as many samples and tokens
        for _ in range(len(self)):
            number = self._reception.wait(self._asked)
            if number is None:
                return
            first = like.first_sample + (number - like.step) * like.samples
            yield replace(like, step=number, first_sample=first)


def _weights(strategy: Strategy) -> list[nn.Parameter]:
    """What is trained, in the same order on every rank."""
    assert strategy.lightning_module is not None
    return [parameter for parameter in strategy.lightning_module.parameters() if parameter.requires_grad]


def _histogram(stale: Counter[int]) -> dict[str, float]:
    """How stale the updates since the last row were: mean, largest, and how many of each."""
    many, most = stale.total(), max(stale)
    mean = sum(value * count for value, count in stale.items()) / many
    counts = {f"staleness/{value}": float(stale[value]) for value in range(min(most, _LONGEST) + 1)}
    longer = sum(count for value, count in stale.items() if value > _LONGEST)
    return {
        "staleness/mean": mean,
        "staleness/max": float(most),
        **counts,
        **({f"staleness/above_{_LONGEST}": float(longer)} if longer else {}),
    }
