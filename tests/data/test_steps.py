"""Laws of steps: pure functions of their number, the same samples in any world and any micro-batch."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.progress import Progress
from groundup.data.module import StreamModule
from groundup.data.step import IGNORED, Batch, Head, Parcel, Step

CONTEXT = 16


def steps(prepared, count=5, first=Progress(), rank=0, world=1, **options):  # noqa: B008
    return StreamModule(prepared.config(**options), 7, first, count, rank, world).steps


def whole(prepared, index, world=1, **options):
    """All micro-batches of a step over all ranks, by their global number."""
    made = {}
    for rank in range(world):
        step = steps(prepared, rank=rank, world=world, **options)[index]
        made.update(zip(step.micro_numbers, step.micro_batches, strict=True))
    return made


def is_padding(batch: Batch) -> bool:
    return bool((batch.targets_BT == IGNORED).all())


@pytest.mark.parametrize("document_mask", [True, False])
def test_a_step_holds_the_windows_of_its_samples_and_their_successors(prepared, document_mask):
    made = steps(prepared, document_mask=document_mask)
    step = made[3]
    tokens, documents = made.stream.windows(36, 12)
    assert (step.step, step.samples, step.tokens, step.targets, step.first_sample) == (3, 12, 192, 192, 36)
    for number, batch in zip(step.micro_numbers, step.micro_batches, strict=True):
        rows = slice(4 * number, 4 * number + 4)
        assert np.array_equal(batch.tokens_BT, tokens[rows, :-1])
        assert np.array_equal(batch.targets_BT, tokens[rows, 1:])
        assert (batch.tokens_BT.dtype, batch.targets_BT.dtype) == (torch.int64, torch.int64)
        if document_mask:
            assert np.array_equal(batch.documents_BT, documents[rows, :-1])
            assert (batch.documents_BT.dtype, batch.positions_BT.dtype) == (torch.int32, torch.int64)
        else:
            assert batch.documents_BT is batch.positions_BT is None


def test_end_opens_the_document_it_starts_and_its_prediction_closes_the_one_before(prepared):
    batch = steps(prepared)[0].micro_batches[0]
    opened = torch.nonzero(batch.tokens_BT == prepared.end).tolist()
    assert opened
    for row, place in opened:
        assert batch.positions_BT[row, place] == 0
        if place:
            assert batch.documents_BT[row, place] == batch.documents_BT[row, place - 1] + 1
            assert batch.targets_BT[row, place - 1] == prepared.end, "end is predicted in the document it closes"
        assert batch.targets_BT[row, place] != IGNORED, "the first token of a document is predicted from end"


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 5, 7, 12]), st.integers(0, 4))
def test_any_world_computes_the_same_global_micro_batches(prepared, same, world, micro_batch, index):
    alone = whole(prepared, index, 1, micro_batch=micro_batch)
    together = whole(prepared, index, world, micro_batch=micro_batch)
    assert all(same(batch, together[number]) for number, batch in alone.items())
    assert all(is_padding(batch) for number, batch in together.items() if number not in alone)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.sampled_from([1, 2, 3, 5, 12]), st.integers(0, 4))
def test_any_split_into_micro_batches_holds_the_same_samples_once(prepared, world, micro_batch, index):
    batches = whole(prepared, index, world, micro_batch=micro_batch)
    rows = [
        row
        for number in sorted(batches)
        for row, targets in zip(batches[number].tokens_BT, batches[number].targets_BT, strict=True)
        if (targets != IGNORED).any()
    ]
    assert torch.equal(
        torch.stack(rows), torch.from_numpy(steps(prepared).stream.windows(index * 12, 12)[0][:, :-1].astype(np.int64))
    )
    kept = sum(int((batch.targets_BT != IGNORED).sum()) for batch in batches.values())
    assert kept == 192, "the step's number of targets, counted by no rank alone"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 400), st.integers(0, 3))
def test_a_run_goes_on_from_any_sample_as_if_it_had_not_stopped(prepared, equal, before, index):
    first = Progress(before, before * 12, before * 192)
    assert equal(steps(prepared, first=first)[index], steps(prepared, count=500)[before + index])


def test_a_change_of_batch_goes_on_with_the_next_sample(prepared):
    first = Progress(2, 24, 24 * CONTEXT)
    larger = steps(prepared, first=first, batch_tokens=CONTEXT * 20)
    plain = steps(prepared).stream
    assert np.array_equal(larger[1].micro_batches[0].tokens_BT, plain.windows(24 + 20, 4)[0][:, :-1])


def test_rows_without_a_sample_are_fully_masked_and_can_be_attended_from(prepared):
    last = steps(prepared, micro_batch=5)[0].micro_batches[2]
    assert (last.targets_BT[2:] == IGNORED).all()
    assert (last.targets_BT[:2] != IGNORED).all()
    assert torch.equal(last.positions_BT[2], torch.arange(CONTEXT))


def test_a_micro_batch_larger_than_the_step_is_the_step(prepared):
    only = steps(prepared, micro_batch=99)[0]
    assert [batch.tokens_BT.shape for batch in only.micro_batches] == [(12, CONTEXT)]


def test_there_are_as_many_steps_as_asked_for(prepared):
    made = steps(prepared, count=3)
    assert len(made) == 3
    assert [step.step for step in made] == [0, 1, 2]
    for index in (-1, 3):
        with pytest.raises(IndexError):
            made[index]


def test_a_step_crosses_between_processes_as_the_tokens_it_was_read_as(prepared, equal):
    parcel = steps(prepared, batch_tokens=CONTEXT * 1000, micro_batch=90).parcel(1)
    packed = pickle.dumps(parcel)
    assert len(packed) < 1.3 * parcel.rows.nbytes
    (arrived,) = pickle.loads(packed)
    assert isinstance(arrived, Step)
    assert equal(arrived, parcel.unpack()[0])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(1, 9), st.sampled_from([3, 4, 5]))
def test_steps_made_together_are_those_made_one_by_one(prepared, equal, world, index, many, micro_batch):
    for rank in range(world):
        made = steps(prepared, rank=rank, world=world, micro_batch=micro_batch)
        together = made.parcel(index, many).unpack()
        assert len(together) == min(many, 5 - index)
        assert all(equal(step, made[index + number]) for number, step in enumerate(together))


def test_a_step_moves_to_a_device_whole(prepared, equal):
    step = steps(prepared)[0]
    moved = step.to("meta")
    assert {batch.tokens_BT.device.type for batch in moved.micro_batches} == {"meta"}
    assert moved.micro_batches[0].positions_BT.device.type == "meta"
    assert (moved.step, moved.micro_numbers) == (step.step, step.micro_numbers)
    assert equal(step.to("cpu"), step)
    assert step.to("cpu").micro_batches[0].to("cpu", non_blocking=True).documents_BT is not None


def test_a_parcel_says_which_targets_are_predicted():
    rows = np.arange(10, dtype=np.uint16).reshape(2, 5)
    (step,) = Parcel([Head(0, 2, 5, 0)], [0], rows, np.array([4, 1]), None).unpack()
    assert step.micro_batches[0].targets_BT.tolist() == [[1, 2, 3, 4], [6, IGNORED, IGNORED, IGNORED]]
