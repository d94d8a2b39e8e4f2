"""Labelled examples in a data folder: written once, then found by their number; of a network they know nothing.

The folder is one of token shards (see `groundup.shard`) in which a document is a text of an example: source `text`,
and `pair` where examples have two. Beside them stand flat arrays of what is to be answered, one row an example.
"""

from __future__ import annotations

import bisect
import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError
from groundup.core.files import atomic_write
from groundup.shard.manifest import Holding, Manifest, Stored, Vocabulary, dtype_for
from groundup.shard.storage import Storage
from groundup.shard.writer import SHARD_TOKENS, Writer
from groundup.tokenizer.protocol import Tokenizer

ABOUT = "examples"
"""The key of a manifest under which they are described."""

TEXT, PAIR = "text", "pair"
REMEDY = "give the file of examples in the place of the folder, to prepare it again"
_KINDS = {"classification": ("<i8", ()), "regression": ("<f8", ()), "span": ("<i8", (2,))}


@dataclass(frozen=True)
class Answered:
    """What a folder of examples says of its questions.

    Attributes:
        task: "classification", "regression" or "span".
        classes: names, of a classification, by their numbers.
        mean, deviation: of the scores that are trained on, of a regression.
        paired: whether examples have two texts.
        counts: examples of each split.
        files: the arrays of each split.
        shared: held-out examples whose texts have the very ids of those of one that is trained on; None: not counted.
    """

    task: str
    classes: list[str]
    mean: float
    deviation: float
    paired: bool
    counts: dict[str, int]
    files: dict[str, list[Stored]]
    shared: int | None = None

    @classmethod
    def read(cls, manifest: Manifest, where: str) -> Answered:
        """Of a manifest.

        Raises:
            DataError: it is of text without answers, or damaged.
        """
        if ABOUT not in manifest.about:
            raise DataError(where, "holds text, not labelled examples", "give a file of examples, or set data=shards")
        values = dict(manifest.about[ABOUT])
        try:
            files = {split: [Stored(**file) for file in stored] for split, stored in values.pop("files").items()}
            return cls(**values, files=files)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(where, f"is damaged ({error!r})", REMEDY) from None

    def verify(self, storage: Storage, contents: bool) -> None:
        """Compare the arrays with what was written.

        Raises:
            DataError: one is missing, cut or changed.
        """
        for stored in (file for split in self.files.values() for file in split):
            path = storage.path(stored.file, stored.size, stored.sha256)
            if contents and hashlib.sha256(path.read_bytes()).hexdigest() != stored.sha256:
                raise DataError(str(path), "is damaged: its checksum differs", REMEDY)


class ExampleWriter:
    """Writes a folder of examples one at a time; the manifest, which makes it whole, comes last.

    As a context manager it leaves no half-made shard on a bad end.

    Args:
        folder: where to; it is empty.
        tokenizer: what ids mean.
        task: what is asked.
        paired: whether examples have two texts.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, task: str, paired: bool) -> None:
        self._folder, self._task, self._tokenizer = Path(folder), task, tokenizer
        self._dtype = dtype_for(tokenizer.vocabulary)
        self._sources = (TEXT, PAIR) if paired else (TEXT,)
        self._writers: dict[tuple[str, str], Writer] = {}
        self._stack = ExitStack()
        self._answers: dict[str, array[Any]] = {}
        self._right: list[bytes] = []
        self._seen: dict[str, array[int]] = {}

    def add(self, split: str, texts: Sequence[tuple[Any, int]], answer: Any, right: Iterable[str], line: int) -> None:
        """Append an example.

        Args:
            split: "train" or "held_out".
            texts: ids and UTF-8 bytes of the text and, if examples have one, its pair.
            answer: the number of the class; the score; or first and last token of the text that answer, -1 for none.
            right: of a span that is held out, the texts of all answers that count.
            line: of the file it stood in.
        """
        for source, (ids, size) in zip(self._sources, texts, strict=True):
            key = split, source
            if key not in self._writers:
                options = {"vocabulary": self._tokenizer.vocabulary, "end": self._tokenizer.end}
                writer = Writer(self._folder, split, source, self._dtype, SHARD_TOKENS, **options)
                self._writers[key] = self._stack.enter_context(writer)
            self._writers[key].add(np.asarray(ids), size, {"line": line})
        self._seen.setdefault(split, array("Q")).append(_key([ids for ids, _ in texts]))
        found = self._answers.setdefault(split, array("d" if self._task == "regression" else "q"))
        found.extend(answer if self._task == "span" else (answer,))
        if self._task == "span" and split == "held_out":
            self._right.append(b"".join(text.encode() + b"\0" for text in right))

    def close(
        self,
        classes: Sequence[str] = (),
        mean: float = 0.0,
        deviation: float = 1.0,
        order: NDArray[np.int64] | None = None,
    ) -> Manifest:
        """Write arrays and manifest.

        Args:
            classes: names.
            mean, deviation: of the scores that are trained on.
            order: place among the names of each number that `add` was given for a class; None: as it is.
        """
        splits: dict[str, dict[str, Holding]] = {}
        for (split, source), writer in self._writers.items():
            splits.setdefault(split, {})[source] = Holding.of(writer.close())
        dtype, shape = _KINDS[self._task]
        files: dict[str, list[Stored]] = {}
        for split, answers in self._answers.items():
            rows = np.frombuffer(answers, dtype=dtype).reshape(-1, *shape)
            rows = rows if order is None else order[rows]
            files[split] = [self._stored(f"{split}/answers.bin", rows.astype(dtype).tobytes())]
        if self._right:
            ends = np.cumsum([len(right) for right in self._right], dtype="<i8")
            files["held_out"].append(self._stored("held_out/right.bin", b"".join(self._right)))
            files["held_out"].append(self._stored("held_out/right.idx", ends.tobytes()))
        counts = {split: held[TEXT].documents for split, held in splits.items()}
        trained, held_out = (np.array(self._seen.get(split, []), dtype=np.uint64) for split in ("train", "held_out"))
        shared = int(np.isin(held_out, trained).sum())
        about = Answered(self._task, list(classes), mean, deviation, len(self._sources) > 1, counts, files, shared)
        end, vocabulary = self._tokenizer.end, self._tokenizer.vocabulary
        made = Manifest(
            Vocabulary(self._tokenizer.digest, vocabulary, end, self._dtype), splits, {ABOUT: asdict(about)}
        )
        made.write(self._folder)
        return made

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _stored(self, name: str, content: bytes) -> Stored:
        atomic_write(self._folder / name, content)
        return Stored.of(self._folder, name)


def _key(texts: Sequence[Any]) -> int:
    """A number that equal texts have in common, and others by a chance of 2**-64."""
    parts = [np.asarray(ids, dtype="<i8").tobytes() for ids in texts]
    hashed = hashlib.blake2b(b"".join(len(part).to_bytes(8, "little") + part for part in parts), digest_size=8)
    return int.from_bytes(hashed.digest(), "little")


class Documents:
    """The texts of a source by their number, memory-mapped; files are opened by the process that reads."""

    def __init__(self, storage: Storage, holding: Holding, dtype: str) -> None:
        self._storage, self._shards = storage, holding.shards
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._firsts = np.cumsum([0, *(shard.documents for shard in holding.shards)]).tolist()
        self._open: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, number: int) -> NDArray[Any]:
        """The ids of a text, without the `end` behind it.

        Raises:
            DataError: a shard that is missing or damaged.
        """
        shard = bisect.bisect_right(self._firsts, number) - 1
        if shard not in self._open:
            self._open[shard] = (
                self._map(self._shards[shard].data, self._dtype),
                self._map(self._shards[shard].ends, np.dtype("<u8")),
            )
        tokens, ends = self._open[shard]
        document = number - self._firsts[shard]
        first = int(ends[document - 1]) if document else 0
        return tokens[first : int(ends[document]) - 1]

    def _map(self, stored: Stored, dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.memmap(self._storage.path(stored.file, stored.size, stored.sha256), dtype=dtype, mode="r")


class Examples:
    """The examples of a split by their number.

    Args:
        storage: the folder.
        manifest: its table of contents.
        about: what it says of examples.
        split: "train" or "held_out".
    """

    def __init__(self, storage: Storage, manifest: Manifest, about: Answered, split: str) -> None:
        holdings: Mapping[str, Holding] = manifest.splits.get(split, {})
        self.task, self.size, self.dtype = about.task, about.counts.get(split, 0), manifest.tokenizer.dtype
        self._storage, self._files = storage, about.files.get(split, [])
        self._texts = Documents(storage, holdings[TEXT], self.dtype)
        self._pairs = Documents(storage, holdings[PAIR], self.dtype) if about.paired else None
        self._arrays: list[NDArray[Any]] = []
        if len(self._texts) != self.size or (self._pairs is not None and len(self._pairs) != self.size):
            raise DataError(storage.describe(split), "has not as many texts as answers", REMEDY)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": []}

    def texts(self, number: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The ids of an example's text and of its pair, if examples have one."""
        return self._texts[number], None if self._pairs is None else self._pairs[number]

    def answers(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """What examples are to be answered: (n,) int64 or float64, of a span (n, 2) int64."""
        found: NDArray[Any] = self._array(0)[numbers]
        return found

    def right(self, number: int) -> bytes:
        """The answers that count, each closed by a zero byte; of spans that are held out."""
        ends = self._array(2)
        return self._array(1)[int(ends[number - 1]) if number else 0 : int(ends[number])].tobytes()

    @property
    def widest(self) -> int:
        """Bytes of the longest `right`; zero where there are none."""
        return int(np.diff(self._array(2), prepend=0).max()) if len(self._files) > 1 else 0

    def _array(self, place: int) -> NDArray[Any]:
        if not self._arrays:
            dtype, shape = _KINDS[self.task]
            for stored, kind in zip(self._files, (dtype, "u1", "<i8"), strict=False):
                path = self._storage.path(stored.file, stored.size, stored.sha256)
                self._arrays.append(np.memmap(path, dtype=kind, mode="r") if stored.size else np.zeros(0, kind))
            self._arrays[0] = self._arrays[0].reshape(-1, *shape)
        return self._arrays[place]
