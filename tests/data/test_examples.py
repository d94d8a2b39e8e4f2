"""Laws of labelled examples: a sample is a function of its number, laid out the same wherever it is read."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundup.core.errors import ConfigError, DataError
from groundup.core.progress import Progress
from groundup.data.config import Examples
from groundup.data.example_module import ExampleModule
from groundup.data.example_opening import Opened
from groundup.data.examples import ExampleWriter
from groundup.data.labelled import HeldOut, Labelled, Steps, lay
from groundup.data.layout import Layout
from groundup.tokenizer.byte import Bytes

TOKENIZER = Bytes()
TRAINED, MEASURED, CONTEXT = 23, 7, 24


def written(folder: Path, task: str = "classification", paired: bool = True) -> Path:
    """A folder of examples whose answers follow from their texts."""
    writer = ExampleWriter(folder, TOKENIZER, task, paired)
    for number in range(TRAINED + MEASURED):
        texts = [f"{number:02} {'word ' * (number % 7)}", f"pair {number}"][: 1 + paired]
        answer = {"classification": number % 3, "regression": number / 4, "span": (0, 1) if number % 3 else (-1, -1)}
        split = "train" if number < TRAINED else "held_out"
        right = [f"{number:02}", "é"] if number % 3 else []
        ids = [(np.array(TOKENIZER.encode(text)), len(text.encode())) for text in texts]
        writer.add(split, ids, answer[task], right, number + 1)
    writer.close([str(number) for number in range(3)] if task == "classification" else [])
    TOKENIZER.save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("examples"))


def config(folder: Path, **options: Any) -> Examples:
    context = options.get("context", CONTEXT)
    shape = {"context": context, "batch_tokens": 6 * context, "micro_batch": 4}
    return Examples(path=str(folder), **{**shape, **options})


def same(one: Labelled, other: Labelled) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(Labelled)]
    return all((a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs)


def texts_of(batch: Labelled) -> list[tuple[int, bytes]]:
    """The example in each row that has one, with the bytes of the row."""
    rows = zip(batch.examples_B.tolist(), batch.tokens_BT.tolist(), batch.last_B.tolist(), strict=True)
    return [(number, bytes(i % 256 for i in row[: last + 1])) for number, row, last in rows if number >= 0]


def steps_of(folder: Path, rank: int = 0, world: int = 1, micro_batch: int = 4, first: Progress | None = None) -> Steps:
    opened = Opened(config(folder), "auto")
    return Steps(opened.train, opened.layout, 5, first or Progress(), 8, 6, micro_batch, rank, world)


def test_an_epoch_is_every_example_once_in_an_order_of_its_own(folder: Path) -> None:
    numbers = steps_of(folder).numbers(np.arange(3 * TRAINED)).reshape(3, TRAINED)
    assert all(sorted(row) == list(range(TRAINED)) for row in numbers.tolist())
    assert len({tuple(row) for row in numbers.tolist()}) == 3


def test_a_step_is_the_same_by_any_loader_and_from_any_beginning(folder: Path) -> None:
    whole = list(ExampleModule(config(folder), 5, Progress(), 8).train_dataloader())
    workers = ExampleModule(config(folder, workers=2), 5, Progress(), 8)
    later = ExampleModule(config(folder), 5, Progress(3, 18, 18 * CONTEXT), 5)
    for first, loader in ((0, workers.train_dataloader()), (3, later.train_dataloader())):
        for one, other in zip(whole[first:], loader, strict=True):
            assert (one.step, one.first_sample, one.targets, one.tokens) == (
                (other.step, other.first_sample, other.targets, other.tokens)
            )
            assert all(same(a, b) for a, b in zip(one.micro_batches, other.micro_batches, strict=True))
    workers.teardown("fit")
    parcel = steps_of(folder).parcel(0, 8)
    (sent,) = {len(pickle.loads(pickle.dumps(parcel)))}
    assert sent == 8


def test_ranks_share_the_examples_of_a_step_and_of_the_held_out_ones(folder: Path) -> None:
    alone, ranks = steps_of(folder, micro_batch=2), [steps_of(folder, rank, 2, 2) for rank in (0, 1)]
    for index in range(8):
        (one, *others) = (made[index] for made in (alone, *ranks))
        by_number = {
            number: batch
            for step in others
            for number, batch in zip(step.micro_numbers, step.micro_batches, strict=True)
        }
        for number, batch in zip(one.micro_numbers, one.micro_batches, strict=True):
            assert same(batch, by_number.pop(number))
        assert all(not texts_of(batch) for batch in by_number.values()), "what is left is padding"
    opened = Opened(config(folder), "auto")
    seen = [
        number
        for rank in (0, 1)
        for step in (HeldOut(opened.held_out, opened.layout, 2, rank, 2)[i] for i in range(2))
        for number, _ in texts_of(step.micro_batches[0])
    ]
    assert sorted(seen) == list(range(MEASURED))


def test_a_row_holds_its_texts_between_ends_and_padding_of_its_own(folder: Path) -> None:
    opened = Opened(config(folder, context=40), "sha256")
    batch = lay(opened.train, opened.layout, np.array([2, -1, 0])).batch()
    end = TOKENIZER.end
    row = [end, *b"02 word word ", end, *b"pair 2", end]
    assert batch.tokens_BT[0].tolist() == row + [end] * (40 - len(row))
    assert batch.documents_BT[0].tolist() == [0] * len(row) + [-1] * (40 - len(row))
    second = row.index(end, 1) + 1
    assert batch.segments_BT[0].tolist() == [0] * second + [1] * (len(row) - second) + [0] * (40 - len(row))
    assert batch.last_B.tolist() == [len(row) - 1, 0, 11]
    assert batch.text_B2[0].tolist() == [1, 14]
    assert batch.examples_B.tolist() == [2, -1, 0]
    assert batch.answers_B.tolist() == [2, 0, 0]
    assert (batch.documents_BT[1] == -1).all()


@pytest.mark.parametrize(
    ("text", "pair", "kept"),
    [(5, None, (5, 0)), (50, None, (18, 0)), (50, 4, (13, 4)), (4, 50, (4, 13)), (50, 50, (8, 9)), (0, 3, (0, 3))],
)
def test_the_text_is_cut_down_to_half_of_the_room_and_then_its_pair(
    text: int, pair: int | None, kept: tuple[int, int]
) -> None:
    layout = Layout(20, 9)
    assert layout.kept(text, pair) == kept
    row = np.zeros(20, np.int64)
    place = layout.fill(row, np.full(text, 1), None if pair is None else np.full(pair, 2))
    assert ((row == 1).sum(), (row == 2).sum()) == kept
    assert place.length == sum(kept) + (2 if pair is None else 3) <= 20


def test_the_question_comes_before_the_text_in_which_a_span_is_sought(tmp_path: Path) -> None:
    opened = Opened(config(written(tmp_path, "span"), context=12), "auto")
    batch = lay(opened.train, opened.layout, np.array([0, 1, 11])).batch()
    assert bytes(batch.tokens_BT[1, 1:12].clamp(max=255).tolist()) == b"pair \xff01 w\xff"
    assert batch.answers_B.tolist() == [[0, 0], [7, 8], [7, 8]]
    short = lay(opened.train, Layout(8, TOKENIZER.end, pair_first=False), np.array([1])).batch()
    assert short.answers_B.tolist() == [[1, 2]]
    held = HeldOut(opened.held_out, opened.layout, 4)[0].micro_batches[0]
    assert bytes(held.right_BA[0].tolist()).decode() == "23\0é\0"  # type: ignore[union-attr,attr-defined]
    assert not held.right_BA[1].any()  # type: ignore[union-attr,attr-defined]


def test_an_answer_that_is_cut_off_is_none_in_its_row(tmp_path: Path) -> None:
    writer = ExampleWriter(tmp_path, TOKENIZER, "span", False)
    for split in ("train", "held_out"):
        writer.add(split, [(np.array(list(b"abcdefghijkl")), 12)], (8, 9), ["ij"], 1)
    writer.close()
    TOKENIZER.save(tmp_path / "tokenizer")
    for context, answer in ((8, [0, 0]), (11, [0, 0]), (12, [9, 10])):
        opened = Opened(config(tmp_path, context=context), "auto")
        assert lay(opened.train, opened.layout, np.array([0])).batch().answers_B.tolist() == [answer]


@pytest.mark.parametrize("name", ["train/answers.bin", "held_out/answers.bin", "train/text-00000.bin", "manifest.json"])
def test_a_damaged_file_is_found_before_it_is_used(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "examples")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(DataError):
        config(folder).check()


def test_another_answer_is_other_data(folder: Path, tmp_path: Path) -> None:
    one, other = config(folder), config(written(tmp_path, "regression"))
    one.check()
    other.check()
    assert one.content is not None and one.content != other.content


def test_steps_are_whole_examples_and_skips_are_ranges() -> None:
    with pytest.raises(ConfigError, match="batch_tokens=100: is no multiple of context=24; set it to 96 or 120"):
        config(Path("x"), batch_tokens=100)
    with pytest.raises(ConfigError, match=r"skips=\[3, 2\]"):
        config(Path("x"), skips=[[3, 2]])
