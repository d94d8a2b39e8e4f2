"""The options of the data groups; it knows no tensor and opens no file until it is asked to build."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress

if TYPE_CHECKING:
    from groundup.data.example_module import ExampleModule
    from groundup.data.module import StreamModule
    from groundup.data.view import View
    from groundup.shard.eras import Mix
    from groundup.shard.manifest import Manifest

AUTO = "auto"
"""The `micro_batch` that is found where the run trains."""

group("data", "what to train on: shards that prepare.py wrote, or labelled examples, and how steps are made of them")

_FOUND = "auto: as many as fit the device (on a CPU: as compute fastest), found once and kept in the run's folder"


@schema("data", "shards")
class Shards:
    """Windows of the documents of token shards, mixed and shuffled, in an order that is a function of the seed."""

    path: str = option("data/embedded", "folder or URL of the shards that prepare.py wrote", identity=False)
    context: int = option(256, "tokens a model sees at once", at_least=1)
    batch_tokens: int = option(4096, "tokens per optimizer step, over all ranks", at_least=1)
    micro_batch: int | str = option(16, f"sequences a rank handles at once; {_FOUND}")
    document_mask: bool = option(True, "let no token see another document, and count positions from each one's start")
    weights: dict[str, Any] = option(
        {}, "share per source: a number, or [sample, number] pairs to move along; empty: as large as each source is"
    )
    ease_tokens: int = option(0, "weights that change on the way are eased in over so many tokens", at_least=0)
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
        _check_multiple(self.batch_tokens, self.context)
        _check_rows(self.micro_batch)
        _check_skips(self.skips)

    @property
    def samples(self) -> int:
        """Samples per optimizer step, over all ranks."""
        return self.batch_tokens // self.context

    @property
    def rows(self) -> int:
        """Sequences per micro-batch: `micro_batch`, or the whole step where that is smaller; one until it is found."""
        return _rows(self.micro_batch, self.samples)

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

    def build(
        self,
        seed: int,
        first: Progress,
        steps: int,
        rank: int = 0,
        world: int = 1,
        view: View | None = None,
        mixes: Sequence[Mix] = (),
    ) -> StreamModule:
        """The loaders of a segment: `steps` steps from `first` on, for one rank of `world`.

        `mixes` are the weights of the segments up to it, where they were changed on the way.

        Raises:
            DataError, ConfigError: as `check`.
        """
        from groundup.data.module import StreamModule

        return StreamModule(self, seed, first, steps, rank, world, view, mixes)


@schema("data", "examples")
class Examples:
    """Labelled examples, each epoch all of them in an order that is a function of the seed (objective=finetune)."""

    path: str = option(
        "train.jsonl", "file of JSON lines, plain, .gz or .zst; or the folder that one was prepared as", identity=False
    )
    held_out: str | None = option(None, "file of the examples to measure on; null: a share of path", identity=False)
    held_out_share: float = option(
        0.1, "of the examples that is measured on where there is no file of them", above=0, below=1, identity=False
    )
    tokenizer: str | None = option(
        None, "folder of the tokenizer, or one that has it; null: that of model.init_from", identity=False
    )
    text: str = option("text", "field of the text; dots lead into inner objects", identity=False)
    pair: str | None = option(None, "field of a second text: a hypothesis, or the question about text", identity=False)
    label: str = option("label", "classification: field of the class, a string or a whole number", identity=False)
    score: str = option("score", "regression: field of the number", identity=False)
    start: str = option(
        "start", "span: field of the character of text at which the answer begins; null or []: none", identity=False
    )
    end: str | None = option(None, "span: field of the character behind it; null: as long as answer", identity=False)
    answer: str = option("answer", "span: field of the answer, a string, or a list of all that count", identity=False)
    context: int = option(128, "tokens of a row, a text and its pair together; longer ones are cut", at_least=8)
    batch_tokens: int = option(4096, "positions per optimizer step, over all ranks: examples x context", at_least=1)
    micro_batch: int | str = option(32, f"examples a rank handles at once; {_FOUND}")
    epochs: float | None = option(
        None, "how often each example is read, in the place of tokens; null: as tokens says", above=0
    )
    skips: list[list[int]] = option([], "ranges [first, end) of sample indices never to serve")
    repeat_samples: int | None = option(
        None, "serve the first so many samples over and over, to overfit on purpose", at_least=1
    )
    content: str | None = option(None, "hash of the prepared examples; filled in")
    workers: int = option(0, "processes that read ahead; 0 reads in the training process", at_least=0, identity=False)
    prefetch: int = option(4, "steps each worker keeps ready", at_least=1, identity=False)
    verify: str = option(
        "auto",
        "check the folder before use: sha256 reads all, size looks at sizes, auto reads up to 4 GiB",
        choices=("auto", "size", "sha256"),
        identity=False,
    )
    cache: str | None = option(None, "local folder for remote files; none: the user's cache folder", identity=False)
    cache_gigabytes: float = option(64.0, "the most that the cache may hold", above=0, identity=False)

    def __post_init__(self) -> None:
        _check_multiple(self.batch_tokens, self.context)
        _check_rows(self.micro_batch)
        _check_skips(self.skips)

    @property
    def samples(self) -> int:
        """Examples per optimizer step, over all ranks."""
        return self.batch_tokens // self.context

    @property
    def rows(self) -> int:
        """Examples per micro-batch: `micro_batch`, or the whole step where that is smaller; one until it is found."""
        return _rows(self.micro_batch, self.samples)

    def check(self) -> Manifest:
        """The manifest of the prepared folder, once it is known to be what was prepared; fills in `content`.

        Raises:
            DataError: files missing or damaged, or a folder of other data.
        """
        from groundup.data.example_opening import Opened

        opened = Opened(self, self.verify)
        opened.check_tokenizer()
        self.content = opened.manifest.digest[:16]
        return opened.manifest

    def length(self, manifest: Manifest) -> int | None:
        """Tokens of a run of `epochs` epochs: so many times the examples, times the context; None: it is not said."""
        from groundup.data.examples import Answered

        if self.epochs is None:
            return None
        return math.ceil(self.epochs * Answered.read(manifest, self.path).counts["train"]) * self.context

    def held_out_sources(self, manifest: Manifest) -> list[str]:
        """The sets of held-out examples, in the order of the validation loaders."""
        del manifest
        return ["examples"]

    def build(
        self, seed: int, first: Progress, steps: int, rank: int = 0, world: int = 1, view: View | None = None
    ) -> ExampleModule:
        """The loaders of a segment, as for `Shards`; of examples an objective has no other view.

        Raises:
            DataError: as `check`.
        """
        from groundup.data.example_module import ExampleModule

        del view
        return ExampleModule(self, seed, first, steps, rank, world)


def _check_multiple(batch_tokens: int, context: int) -> None:
    if batch_tokens % context:
        below = batch_tokens // context * context
        fits = f"{below} or {below + context}" if below else f"{context}"
        raise ConfigError(f"batch_tokens={batch_tokens}", f"is no multiple of context={context}", f"set it to {fits}")


def _check_rows(micro_batch: int | str) -> None:
    if micro_batch != AUTO and (isinstance(micro_batch, str) or micro_batch < 1):
        what = f"must be a number of at least 1, or {AUTO}"
        raise ConfigError(f"micro_batch={micro_batch}", what, "set it so")


def _rows(micro_batch: int | str, samples: int) -> int:
    return 1 if isinstance(micro_batch, str) else min(micro_batch, samples)


def _check_skips(skips: list[list[int]]) -> None:
    for item in skips:
        if len(item) != 2 or not 0 <= item[0] < item[1]:
            what = "is no range of sample indices"
            raise ConfigError(f"skips={list(item)}", what, "write [first, end] with 0 <= first < end")
