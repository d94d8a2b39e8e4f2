"""Laws of how a step's samples are laid out over ranks and micro-batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.layout import PADDING, Grid, global_micro_batches, micro_numbers, rows

samples = st.integers(0, 60)
worlds = st.integers(1, 7)
micro = st.integers(1, 9)


def step_of(count, world, micro_batch):
    """Every rank's rows by global micro-batch number."""
    made = {}
    for rank in range(world):
        numbers = micro_numbers(count, world, rank, micro_batch)
        made.update(zip(numbers, rows(count, world, rank, micro_batch), strict=True))
    return made


@given(samples, worlds, micro)
def test_every_sample_stands_in_exactly_one_row_of_one_rank(count, world, micro_batch):
    held = [offset for row in step_of(count, world, micro_batch).values() for offset in row if offset != PADDING]
    assert sorted(held) == list(range(count))


@given(samples, worlds, micro)
def test_every_rank_has_equally_many_micro_batches_of_equal_size(count, world, micro_batch):
    shapes = {tuple(len(row) for row in rows(count, world, rank, micro_batch)) for rank in range(world)}
    assert len(shapes) == 1
    assert set(shapes.pop()) <= {micro_batch}


@given(samples, worlds, micro)
def test_global_micro_batches_are_the_same_in_any_world(count, world, micro_batch):
    alone, together = step_of(count, 1, micro_batch), step_of(count, world, micro_batch)
    assert len(alone) == global_micro_batches(count, micro_batch)
    assert {number: together[number] for number in alone} == alone
    assert all(set(row) == {PADDING} for number, row in together.items() if number not in alone)


@given(samples, worlds, micro)
def test_fewer_than_one_micro_batch_per_rank_is_padding(count, world, micro_batch):
    held = step_of(count, world, micro_batch)
    padding = sum(set(row) == {PADDING} for row in held.values())
    assert padding < world


@pytest.mark.parametrize(
    ("count", "world", "rank", "micro_batch"), [(-1, 1, 0, 1), (4, 1, 0, 0), (4, 2, 2, 1), (4, 0, 0, 1)]
)
def test_what_cannot_be_laid_out_is_refused(count, world, rank, micro_batch):
    with pytest.raises(ValueError, match=r"cannot lay out|not in a world"):
        rows(count, world, rank, micro_batch)


def test_a_grid_gives_every_rank_a_place_of_its_own_with_tensor_ranks_as_neighbours():
    grid = Grid(pipeline=2, data=3, context=2, tensor=2)
    places = [grid.place(rank) for rank in range(grid.world)]
    assert len(set(places)) == grid.world == 24
    assert [place.tensor for place in places[:4]] == [0, 1, 0, 1]
    assert [place.pipeline for place in places] == [0] * 12 + [1] * 12
    with pytest.raises(ValueError, match="rank 24 is not in a world of 24"):
        grid.place(24)
