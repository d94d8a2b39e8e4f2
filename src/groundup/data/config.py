"""The options of the data groups; it knows no tensor and opens no file until it is asked to build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress

if TYPE_CHECKING:
    from groundup.data.module import StreamModule
    from groundup.shard.manifest import Manifest

group("data", "the text to train on: shards that prepare.py wrote, their mixture, and how steps are made of them")


@schema("data", "shards")
class Shards:
    """Windows of the documents of token shards, mixed and shuffled, in an order that is a function of the seed."""

    path: str = option("data/embedded", "folder or URL of the shards that prepare.py wrote", identity=False)
    context: int = option(256, "tokens a model sees at once", at_least=1)
    batch_tokens: int = option(4096, "tokens per optimizer step, over all ranks", at_least=1)
    micro_batch: int = option(16, "sequences a rank handles at once", at_least=1)
    document_mask: bool = option(True, "let no token see another document, and count positions from each one's start")
    weights: dict[str, Any] = option(
        {}, "share per source: a number, or [sample, number] pairs to move along; empty: as large as each source is"
    )
    skips: list[list[int]] = option([], "ranges [first, end) of sample indices never to serve")
    repeat_samples: int | None = option(
        None, "serve the first so many samples over and over, to overfit on purpose", at_least=1
    )
    shuffle_tokens: int | None = option(
        None, "shuffle only so many tokens together (8 shards' worth suits remote shards); none: everything", at_least=1
    )
    held_out_tokens: int | None = option(
        None, "evaluate at most so many held-out tokens per source; none or 0: all", at_least=0, identity=False
    )
    workers: int = option(0, "processes that read ahead; 0 reads in the training process", at_least=0, identity=False)
    prefetch: int = option(4, "steps each worker keeps ready", at_least=1, identity=False)
    verify: str = option(
        "auto",
        "check shards before use: sha256 reads all, size looks at sizes, auto reads up to 4 GiB",
        choices=("auto", "size", "sha256"),
        identity=False,
    )
    cache: str | None = option(None, "local folder for remote shards; none: the user's cache folder", identity=False)
    cache_gigabytes: float = option(64.0, "the most that the cache may hold", above=0, identity=False)

    def __post_init__(self) -> None:
        if self.batch_tokens % self.context:
            below = self.batch_tokens // self.context * self.context
            fits = f"{below} or {below + self.context}" if below else f"{self.context}"
            what = f"is no multiple of context={self.context}"
            raise ConfigError(f"batch_tokens={self.batch_tokens}", what, f"set it to {fits}")
        for item in self.skips:
            if len(item) != 2 or not 0 <= item[0] < item[1]:
                what = "is no range of sample indices"
                raise ConfigError(f"skips={list(item)}", what, "write [first, end] with 0 <= first < end")

    @property
    def samples(self) -> int:
        """Samples per optimizer step, over all ranks."""
        return self.batch_tokens // self.context

    @property
    def rows(self) -> int:
        """Sequences per micro-batch: `micro_batch`, or the whole step where that is smaller."""
        return min(self.micro_batch, self.samples)

    def check(self) -> Manifest:
        """The manifest, once shards and tokenizer are known to be what was prepared and to suit the options.

        It imports no torch, and reads contents that it has found good in this process no second time.

        Raises:
            DataError: shards or tokenizer missing, damaged or not made for each other.
            ConfigError: weights of unknown sources, or a context longer than a source.
        """
        from groundup.data.opening import Opened

        opened = Opened(self, self.verify)
        opened.check_tokenizer()
        return opened.manifest

    def held_out_sources(self, manifest: Manifest) -> list[str]:
        """The sources with held-out text, in the order of the validation loaders."""
        from groundup.data.opening import held_out_names

        return held_out_names(manifest)

    def build(self, seed: int, first: Progress, steps: int, rank: int = 0, world: int = 1) -> StreamModule:
        """The loaders of a segment: `steps` steps from `first` on, for one rank of `world`.

        Raises:
            DataError, ConfigError: as `check`.
        """
        from groundup.data.module import StreamModule

        return StreamModule(self, seed, first, steps, rank, world)
