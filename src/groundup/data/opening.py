"""Shards opened as a config says, checked before anything heavy is imported; it makes no batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundup.core.errors import ConfigError, DataError
from groundup.shard.eras import Eras, Mix
from groundup.shard.manifest import REMEDY, Manifest, Verified, sets_of
from groundup.shard.mixture import Mixture
from groundup.shard.skip import Skips
from groundup.shard.source import Source
from groundup.shard.storage import Storage, open_storage
from groundup.shard.stream import Stream
from groundup.shard.weights import parse, taken_up
from groundup.tokenizer.load import load
from groundup.tokenizer.protocol import CARD

if TYPE_CHECKING:
    from groundup.data.config import Examples, Shards

TRAIN = "train"
HELD_OUT = "held_out"
TOKENIZER = "tokenizer"
"""The folder of a data folder that `Tokenizer.save` wrote."""

_GOOD: dict[tuple[str, str], Verified] = {}


class Opened:
    """A data folder that was checked, and what can be read from it.

    Args:
        config: how to read it.
        verify: "auto", "size" or "sha256", see `Manifest.verify`.

    Raises:
        DataError: shards that are missing or damaged, or hold no training text.
        ConfigError: weights of unknown sources, or a context longer than a source.
    """

    def __init__(self, config: Shards, verify: str) -> None:
        self.config = config
        self.storage = storage_of(config)
        self.manifest = Manifest.read(self.storage)
        self.verified = verified(self.storage, self.manifest, verify)
        self.manifest.holdings(TRAIN, config.path)
        self.stream(0)

    def stream(self, seed: int, mixes: Sequence[Mix] = ()) -> Stream:
        """The endless training stream of a seed.

        Args:
            seed: names the order.
            mixes: weights that held before the config's, and these from where on; empty: they always did.

        Raises:
            ConfigError: as the class.
        """
        config = self.config
        sources = self.sources(TRAIN)
        counts = {source.name: source.count(config.context) for source in sources}
        sizes = {name: max(1, _mean([counts[n] for n in names])) for name, names in sets_of(counts).items()}
        try:
            skips = Skips(config.skips)
            mixture = _mixture(mixes or [Mix(0, config.weights)], sizes, skips)
            end = self.manifest.tokenizer.end
            pace = (config.shuffle_tokens, config.repeat_samples)
            return Stream(sources, mixture, seed, config.context, end, skips, *pace)
        except ConfigError as error:
            raise error.under("data") from None

    def sources(self, split: str) -> list[Source]:
        """The sources of a split that hold text, in the manifest's order.

        Raises:
            DataError: there is none.
        """
        names = self.manifest.holdings(split, self.config.path)
        return [Source(self.storage, self.manifest, split, name) for name in names]

    def held_out(self) -> list[Source]:
        """The held-out sources, in the order of `held_out_names`; may be none."""
        return [Source(self.storage, self.manifest, HELD_OUT, name) for name in held_out_names(self.manifest)]

    def check_tokenizer(self) -> None:
        """See that the tokenizer beside the shards is the one they were made with.

        Raises:
            DataError: it is another, or missing or damaged.
        """
        where = tokenizer_folder(self.storage)
        if load(where).digest != self.manifest.tokenizer.digest:
            raise DataError(
                self.storage.describe(TOKENIZER), "is another tokenizer than the shards were made with", REMEDY
            )


def storage_of(config: Shards | Examples) -> Storage:
    """The data folder of a config, local or behind a URL with the cache the config names.

    Raises:
        DataError: a URL whose file system is unknown or not installed.
    """
    return open_storage(config.path, config.cache, int(config.cache_gigabytes * 1e9))


def tokenizer_folder(storage: Storage) -> Path:
    """The folder of the tokenizer beside the shards, on this machine: its card and its file are fetched where need be.

    Raises:
        DataError: it is missing or damaged.
        StorageError: the cache cannot be written.
    """
    card = storage.small(f"{TOKENIZER}/{CARD}")
    try:
        file = json.loads(card.read_text(encoding="utf-8")).get("file")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(storage.describe(f"{TOKENIZER}/{CARD}"), f"is damaged ({error})", REMEDY) from None
    if file is not None:
        storage.small(f"{TOKENIZER}/{Path(str(file)).name}")
    return card.parent


def held_out_tasks(storage: Storage) -> dict[str, Path]:
    """The questions that prepare.py made from held-out text: files on this machine by the name of their task.

    Raises:
        DataError: there are none, or they are damaged.
    """
    listed = Manifest.read(storage).about.get("questions")
    if not listed:
        what = "holds no questions made from held-out text"
        raise DataError(storage.describe(""), what, "prepare the data again with fresh=true, or name other tasks")
    return {name: storage.path(file["file"], file["size"], file["sha256"]) for name, file in listed.items()}


def held_out_names(manifest: Manifest) -> list[str]:
    """The sources whose held-out text is long enough to hold a target."""
    return [name for name, holding in manifest.splits.get(HELD_OUT, {}).items() if holding.tokens > 1]


def _mixture(mixes: Sequence[Mix], sizes: Mapping[str, int], skips: Skips) -> Mixture | Eras:
    """One mixture, or several that take over from each other."""
    eras = [(0, Mixture(parse(mixes[0].weights, sizes)))]
    for mix in mixes[1:]:
        since, last = eras[-1]
        first = int(skips.index(np.array([mix.first], dtype=np.int64))[0])
        before = last.shares(first - since)
        eras.append((first, Mixture(taken_up(parse(mix.weights, sizes), first, before, mix.over, list(sizes)))))
    return eras[0][1] if len(eras) == 1 else Eras(eras)


def _mean(counts: Sequence[int]) -> int:
    return round(sum(counts) / len(counts))


def verified(storage: Storage, manifest: Manifest, mode: str) -> Verified:
    """`Manifest.verify`, which reads the same contents only once in a process."""
    known = _GOOD.get((storage.describe(""), manifest.digest))
    if known is not None and known.contents:
        manifest.verify(storage, "size")
        return known
    verified = manifest.verify(storage, mode)
    _GOOD[storage.describe(""), manifest.digest] = verified
    return verified
