"""The LightningDataModule over shards: it makes loaders of steps, and leaves what a step holds to them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from groundup.core.progress import Progress
from groundup.data.opening import Opened
from groundup.data.step import Parcel, Step
from groundup.data.steps import HeldOut, Steps

if TYPE_CHECKING:
    from groundup.data.config import Shards


class StreamModule(LightningDataModule):
    """Training steps of the stream and the held-out text, for one rank of one segment.

    Args:
        config: which shards, and how steps are made of them.
        seed: names the order.
        first: where the segment starts; the first item is step `first.steps` at sample `first.samples`.
        steps: optimizer steps in the segment.
        rank, world: which of how many processes.

    Raises:
        DataError, ConfigError: as `Opened`.
    """

    def __init__(
        self,
        config: Shards,
        seed: int,
        first: Progress,
        steps: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.rank, self.world = config, rank, world
        # Ranks share the files: one of them reads the contents to check them.
        self.opened = Opened(config, config.verify if rank == 0 else "size")
        self.stream = self.opened.stream(seed)
        self.steps = Steps(
            self.stream, first, steps, config.samples, config.rows, rank, world, document_mask=config.document_mask
        )
        end = self.stream.end if config.document_mask else None
        self.held_out = [
            HeldOut(source, config.context, config.rows, rank, world, end, config.held_out_tokens)
            for source in self.opened.held_out()
        ]

    @property
    def held_out_names(self) -> list[str]:
        """The source of each loader of `val_dataloader`."""
        return [part.name for part in self.held_out]

    def train_dataloader(self) -> DataLoader[Step]:
        """One `Step` an item, in order."""
        return self._loader(self.steps, self.config.workers)

    def val_dataloader(self) -> list[DataLoader[Step]]:
        """One loader per held-out source, each of its windows once, as a `Step` of one micro-batch an item."""
        return [self._loader(part, min(1, self.config.workers)) for part in self.held_out]

    def describe(self) -> list[str]:
        """Lines on what was checked and what a run to the end of the segment reads of each source."""
        total = self.steps.first.samples + len(self.steps) * self.steps.samples
        lines = [f"{self.config.path}: {self.opened.verified}"]
        for source, epochs in zip(self.stream.sources, self.stream.epochs(total).values(), strict=True):
            again = ", its text is repeated in another order" if epochs > 1 else ""
            lines.append(f"{source.name}: {source.tokens:,} tokens, read {epochs:.2f} times by sample {total:,}{again}")
        context = self.config.context
        return lines + [f"held out of {p.name}: {p.windows.size:,} windows of {context} tokens" for p in self.held_out]

    def _loader(self, steps: Steps | HeldOut, workers: int) -> DataLoader[Step]:
        dataset: Dataset[Any] = _Parcels(steps) if workers else steps
        return DataLoader(
            dataset,
            batch_size=None,
            collate_fn=_as_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=self.config.prefetch if workers else None,
            multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
            worker_init_fn=_single_threaded if workers else None,
            pin_memory=torch.cuda.is_available(),
            # Its own generator, as a loader draws a seed for its workers: the global one stays untouched.
            generator=torch.Generator(),
        )


class _Parcels(Dataset[Parcel]):
    """The same steps as they travel from a worker; they arrive as steps."""

    def __init__(self, steps: Steps | HeldOut) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Parcel:
        return self._steps.parcel(index)


def _as_is(item: Any) -> Any:
    return item


def _single_threaded(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)
