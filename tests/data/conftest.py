"""A data folder of known tokens, with the tokenizer of bytes beside it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.data.config import Shards
from groundup.data.step import IGNORED, Batch, Head, Parcel, Step
from groundup.shard.manifest import Holding, Manifest, Vocabulary
from groundup.shard.writer import Writer
from groundup.tokenizer.byte import Bytes

CONTEXT = 16


class Prepared:
    """A data folder and what should be in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        tokenizer = Bytes()
        self.end = tokenizer.end
        tokenizer.save(path / "tokenizer")
        self.rows: dict[tuple[str, str], np.ndarray] = {}
        splits: dict[str, dict[str, Holding]] = {}
        for split, sizes in {"train": {"prose": 60, "code": 25}, "held_out": {"prose": 9, "code": 1}}.items():
            splits[split] = {name: self._write(tokenizer, split, name, many) for name, many in sizes.items()}
        self.manifest = Manifest(Vocabulary(tokenizer.digest, tokenizer.vocabulary, tokenizer.end, "uint16"), splits)
        self.manifest.write(path)

    def _write(self, tokenizer: Bytes, split: str, name: str, many: int) -> Holding:
        draw = np.random.default_rng(many)
        vocabulary, end = tokenizer.vocabulary, tokenizer.end
        writer = Writer(self.path, split, name, "uint16", 700, vocabulary=vocabulary, end=end)
        row = []
        for number in range(many):
            text = f"{name} {number} " + "word " * int(draw.integers(0, 30))
            ids = np.array(tokenizer.encode(text))
            writer.add(ids, len(text), {"record": number})
            row.extend([*ids, end])
        self.rows[split, name] = np.array(row)
        return Holding.of(writer.close())

    def config(self, **options: object) -> Shards:
        """A config of it, with small steps."""
        return Shards(
            **{"path": str(self.path), "context": CONTEXT, "batch_tokens": CONTEXT * 12, "micro_batch": 4, **options}
        )


def same_batch(one: Batch, other: Batch) -> bool:
    return all(
        (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b))
        for a, b in ((getattr(one, name), getattr(other, name)) for name in Batch.__dataclass_fields__)
    )


def equal_steps(one: Step, other: Step) -> bool:
    numbers = ("step", "samples", "tokens", "targets", "first_sample", "micro_numbers")
    return all(getattr(one, n) == getattr(other, n) for n in numbers) and all(
        same_batch(a, b) for a, b in zip(one.micro_batches, other.micro_batches, strict=True)
    )


@pytest.fixture(scope="session")
def same():
    """Whether two batches hold the same tensors."""
    return same_batch


@pytest.fixture(scope="session")
def equal():
    """Whether two steps hold the same numbers and tensors."""
    return equal_steps


def window_batch(view, rows, filled=None, samples=None, document_mask=True, end=Bytes.end):
    """What a view shows of rows of tokens, by the way that a loader takes."""
    rows = np.asarray(rows, dtype=np.uint16)
    filled = np.full(len(rows), rows.shape[1] - 1) if filled is None else np.asarray(filled)
    samples = np.arange(len(rows)) if samples is None else np.asarray(samples)
    counted = int(view.targets(samples, filled).sum())
    parcel = Parcel([Head(0, len(rows), counted, 0)], [0], rows, filled, end if document_mask else None, samples, view)
    (step,) = pickle.loads(pickle.dumps(parcel))
    (batch,) = step.micro_batches
    assert step.targets == int((batch.targets_BT != IGNORED).sum()), "the count is known before"
    return batch


def sentence_rows(many, context, seed=0):
    """Windows of documents of sentences as bytes, each `context + 1` tokens: (many, context + 1)."""
    draw = np.random.default_rng(seed)
    words = ["a", "the", "cat", "dogs", "sat.", "ran!", "Why?", 'said "no."', "on", "mats", "(slowly)."]
    size = many * (context + 1)
    text: list[int] = []
    while len(text) < size:
        text += [*" ".join(draw.choice(words, draw.integers(3, 30))).encode(), Bytes.end]
    return np.array(text[:size]).reshape(many, context + 1)


@pytest.fixture(scope="session")
def window():
    """Makes what a view shows of rows of tokens."""
    return window_batch


@pytest.fixture(scope="session")
def sentences():
    """Makes rows of sentences in documents."""
    return sentence_rows


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A folder that tests read."""
    return Prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def own(tmp_path: Path) -> Prepared:
    """A folder that a test may damage."""
    return Prepared(tmp_path / "data")
