"""The LightningDataModule over shards: it makes loaders of steps, and leaves what a step holds to them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from groundup.core.progress import Progress
from groundup.data.opening import Opened
from groundup.data.step import Step
from groundup.data.steps import HeldOut, Steps
from groundup.data.view import View
from groundup.shard.eras import Mix
from groundup.shard.manifest import sets_of

if TYPE_CHECKING:
    from groundup.data.config import Shards

_HERE_TOKENS, _SENT_TOKENS, _MOST_STEPS = 1 << 14, 1 << 18, 16
"""Steps are made here, or sent by a worker, in runs of at most so many tokens (those here stay in the processor's
cache) and steps, or one by one."""


class Made(Protocol):
    """Steps that are made by their number, some at a time.

    Attributes:
        tokens: positions in an item.
    """

    tokens: int

    def __len__(self) -> int: ...

    def parcel(self, index: int, many: int = 1) -> Unpacked: ...


class Unpacked(Protocol):
    """Some steps as they come from a worker."""

    def unpack(self) -> list[Step]: ...


class StepModule(LightningDataModule):
    """Loaders of steps; a subclass sets `steps`, `held_out` and `config`, of which workers and prefetch are read."""

    config: Any
    steps: Made
    held_out: Sequence[Any]

    def __init__(self) -> None:
        super().__init__()
        self._loaders: list[_Ahead] = []

    @property
    def held_out_names(self) -> list[str]:
        """The source of each loader of `val_dataloader`."""
        return [part.name for part in self.held_out]

    def train_dataloader(self) -> Loader:
        """One `Step` an item, in order."""
        return self._loader(self.steps, self.config.workers)

    def val_dataloader(self) -> list[Loader]:
        """One loader per held-out source, each of its samples once, as a `Step` of one micro-batch an item."""
        return [self._loader(part, min(1, self.config.workers)) for part in self.held_out]

    def teardown(self, stage: str) -> None:
        """End the processes that read ahead, rather than whenever garbage is collected."""
        del stage
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def _loader(self, steps: Made, workers: int) -> Loader:
        if not workers:
            return _InOrder(steps)
        self._loaders.append(_Ahead(steps, workers, self.config.prefetch))
        return self._loaders[-1]


class StreamModule(StepModule):
    """Training steps of the stream and the held-out text, for one rank of one segment.

    Args:
        config: which shards, and how steps are made of them.
        seed: names the order.
        first: where the segment starts; the first item is step `first.steps` at sample `first.samples`.
        steps: optimizer steps in the segment.
        rank, world: which of how many processes.
        view: what the objective shows of the text; None: each token's successor is predicted.
        mixes: as for `Opened.stream`.

    Raises:
        DataError, ConfigError: as `Opened`.
    """

    steps: Steps
    held_out: list[HeldOut]

    def __init__(
        self,
        config: Shards,
        seed: int,
        first: Progress,
        steps: int,
        rank: int = 0,
        world: int = 1,
        view: View | None = None,
        mixes: Sequence[Mix] = (),
    ) -> None:
        super().__init__()
        self.config, self.rank, self.world = config, rank, world
        # Ranks share the files: one of them reads the contents to check them.
        self.opened = Opened(config, config.verify if rank == 0 else "size")
        self.stream = self.opened.stream(seed, mixes)
        self.steps = Steps(
            self.stream, first, steps, config.samples, config.rows, rank, world, config.document_mask, view
        )
        end = self.stream.end if config.document_mask else None
        self.held_out = [
            HeldOut(source, config.context, config.rows, rank, world, end, config.held_out_tokens, view)
            for source in self.opened.held_out()
        ]

    def describe(self) -> list[str]:
        """Lines on what was checked and what a run to the end of the segment reads of each source."""
        total = self.steps.first.samples + len(self.steps) * self.steps.samples
        lines = [f"{self.config.path}: {self.opened.verified}"]
        tokens = {source.name: source.tokens for source in self.stream.sources}
        for (name, epochs), sets in zip(self.stream.epochs(total).items(), sets_of(tokens).values(), strict=True):
            of = f" in the first of {len(sets)} sampled sets" if len(sets) > 1 else ""
            again = ", its text is repeated in another order" if epochs > 1 else ""
            size = f"{tokens[sets[0]]:,} tokens{of}"
            lines.append(f"{name}: {size}, read {epochs:.2f} times by sample {total:,}{again}")
        context = self.config.context
        return lines + [f"held out of {p.name}: {p.windows.size:,} windows of {context} tokens" for p in self.held_out]


class Loader(Protocol):
    """Steps in order, as often as asked for, or one by its number, made here and now."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Step: ...

    def __iter__(self) -> Iterator[Step]: ...


class _InOrder:
    """A loader that makes steps when they are asked for, here and now; of small ones some at a time."""

    def __init__(self, steps: Made) -> None:
        self._parcels, self._pinned = _Parcels(steps, _HERE_TOKENS), torch.cuda.is_available()

    def __len__(self) -> int:
        return self._parcels.steps

    def __getitem__(self, index: int) -> Step:
        return self._parcels.one(index)

    def __iter__(self) -> Iterator[Step]:
        for index in range(len(self._parcels)):
            for step in self._parcels[index].unpack():
                yield step.pin_memory() if self._pinned else step


class _Ahead:
    """A loader whose workers make steps before they are asked for, several small ones at a time."""

    def __init__(self, steps: Made, workers: int, prefetch: int) -> None:
        self._parcels = _Parcels(steps, _SENT_TOKENS)
        self._loader = DataLoader(
            self._parcels,
            batch_size=None,
            collate_fn=_as_is,
            num_workers=workers,
            persistent_workers=True,
            prefetch_factor=-(-prefetch // self._parcels.each),
            multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
            worker_init_fn=_single_threaded,
            pin_memory=torch.cuda.is_available(),
            # Its own generator, as a loader draws a seed for its workers: the global one stays untouched.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return self._parcels.steps

    def __getitem__(self, index: int) -> Step:
        return self._parcels.one(index)

    def __iter__(self) -> Iterator[Step]:
        for steps in self._loader:
            yield from steps

    def close(self) -> None:
        """End the workers, and wait until they have; the next iteration starts new ones."""
        iterator: Any = self._loader._iterator
        self._loader._iterator = None
        if iterator is not None:
            iterator._shutdown_workers()


class _Parcels(Dataset[Unpacked]):
    """Steps in runs of about so many tokens; a run that leaves its process arrives as a list of steps."""

    def __init__(self, steps: Made, tokens: int) -> None:
        self._made, self.steps = steps, len(steps)
        self.each = max(1, min(_MOST_STEPS, tokens // steps.tokens))

    def __len__(self) -> int:
        return -(-self.steps // self.each)

    def __getitem__(self, index: int) -> Unpacked:
        return self._made.parcel(index * self.each, self.each)

    def one(self, index: int) -> Step:
        """A step by its number."""
        return self._made.parcel(index).unpack()[0]


def _as_is(item: Any) -> Any:
    return item


def _single_threaded(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)
