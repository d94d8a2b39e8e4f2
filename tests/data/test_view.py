"""What is shown of windows: a function of the sample's number, with counts that are known before."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.progress import Progress
from groundup.data.module import StreamModule
from groundup.data.step import IGNORED
from groundup.data.view import Split
from groundup.model.config import Encoder, EncoderDecoder
from groundup.objective.config import Denoise, Masked, Prefix, Span, Ul2
from groundup.tokenizer.byte import Bytes

CONTEXT, ENCODER, BOTH = 16, Encoder(), EncoderDecoder()
VIEWS = {
    "split": Split(5),
    "continuation": Prefix().view(5, Bytes(), BOTH),
    "masked": Masked(whole_words=True).view(5, Bytes(), ENCODER),
    "span": Span().view(5, Bytes(), BOTH),
    "denoise": Denoise().view(5, Bytes(), BOTH),
    "ul2": Ul2().view(5, Bytes(), BOTH),
}
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def module(prepared, rank=0, world=1, steps=6, workers=0, view=VIEWS["split"]):
    config = prepared.config(workers=workers)
    return StreamModule(config, 7, Progress(2, 24, 24 * CONTEXT), steps, rank, world, view)


@given(st.integers(0, 2**40), st.integers(0, 40))
def test_a_split_gives_at_least_one_token_and_leaves_at_least_one(sample, filled):
    samples, lengths = np.array([sample]), np.array([filled])
    (length,), (targets,) = Split(1).given(samples, lengths), Split(1).targets(samples, lengths)
    assert 1 <= length <= max(filled, 1)
    assert targets == (filled - length + 1 if filled else 0)
    assert targets >= min(filled, 1)


def test_all_lengths_are_about_equally_likely():
    samples = np.arange(8000)
    lengths = Split(3).given(samples, np.full(8000, 8))
    counts = np.bincount(lengths, minlength=9)[1:8]
    assert counts.sum() == 8000
    assert (np.abs(counts - 8000 / 7) < 200).all()


def test_tokens_are_given_up_to_the_first_target(prepared):
    for step in module(prepared).train_dataloader():
        for batch in step.micro_batches:
            assert batch.prefix_BT is not None
            given_B = batch.prefix_BT.sum(dim=1)
            for row, length in enumerate(given_B.tolist()):
                assert batch.prefix_BT[row, :length].all()
                assert (batch.targets_BT[row, : length - 1] == IGNORED).all()
                assert (batch.targets_BT[row, length - 1 :] != IGNORED).all()


@every_view
def test_the_count_of_targets_is_right_on_any_number_of_ranks_and_workers(view, prepared, equal):
    alone = list(module(prepared, view=view).train_dataloader())
    for step in alone:
        assert step.targets == sum(int((batch.targets_BT != IGNORED).sum()) for batch in step.micro_batches)
    parts = [list(module(prepared, rank, 2, view=view).train_dataloader()) for rank in range(2)]
    for whole, *shares in zip(alone, *parts, strict=True):
        assert {share.targets for share in shares} == {whole.targets}
        shown = sum(int((b.targets_BT != IGNORED).sum()) for share in shares for b in share.micro_batches)
        assert shown == whole.targets
    ahead = module(prepared, workers=1, view=view)
    for mine, other in zip(alone, ahead.train_dataloader(), strict=True):
        assert equal(mine, other)
    ahead.teardown("fit")


@every_view
def test_ranks_are_shown_the_rows_that_one_alone_is(view, prepared):
    def rows(steps):
        return sorted(
            tuple(np.concatenate([tensor[row].numpy() for tensor in batch.there().values()]).tolist())
            for step in steps
            for batch in step.micro_batches
            for row in range(len(batch.tokens_BT))
            if (batch.targets_BT[row] != IGNORED).any()
        )

    shares = [step for rank in range(2) for step in module(prepared, rank, 2, view=view).train_dataloader()]
    assert rows(shares) == rows(module(prepared, view=view).train_dataloader())


@every_view
def test_held_out_windows_are_shown_too_and_counted(view, prepared):
    data = module(prepared, view=view)
    for loader in data.val_dataloader():
        for step in loader:
            (batch,) = step.micro_batches
            assert step.targets == int((batch.targets_BT != IGNORED).sum())
            assert (batch.prefix_BT is not None) == (view == VIEWS["split"])


def test_a_view_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(Split(4))) == Split(4)
