"""Laws of the stream: a pure function of the sample number, and every window once an epoch."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError
from groundup.shard.documents import documents
from groundup.shard.inspect import look
from groundup.shard.mixture import Mixture
from groundup.shard.skip import Skips
from groundup.shard.stream import Stream
from groundup.shard.weights import parse

CONTEXT = 16


def stream(folder, weights=None, seed=0, context=CONTEXT, skips=(), **options):
    sources = folder.sources()
    knots = parse(weights or {}, {source.name: source.count(context) for source in sources})
    return Stream(sources, Mixture(knots), seed, context, 0, Skips(skips), **options)


spans = st.tuples(st.integers(0, 9000), st.integers(0, 70))


@settings(deadline=None, max_examples=60)
@given(st.lists(spans, min_size=1, max_size=5))
def test_any_slice_in_any_order_gives_the_same_windows(folder, some):
    one, other = stream(folder), stream(folder)
    for first, count in some:
        tokens, numbers = one.windows(first, count)
        assert np.array_equal(tokens, other.tokens(np.arange(first, first + count)))
        singly = [other.windows(sample, 1) for sample in range(first, first + count)]
        assert all(
            np.array_equal(tokens[i], a[0]) and np.array_equal(numbers[i], b[0]) for i, (a, b) in enumerate(singly)
        )


def test_a_step_of_thousands_of_samples_is_the_same_as_its_parts(folder):
    for made in (stream(folder), Stream(folder.sources()[:1], Mixture(parse({}, {"prose": 1})), 0, CONTEXT, 0)):
        parts = [made.windows(first, 900)[0] for first in range(3700, 9100, 900)]
        assert np.array_equal(made.windows(3700, 5400)[0], np.concatenate(parts))
        assert made.windows(3, 0)[0].shape == (0, CONTEXT + 1)


def test_a_sample_is_the_window_it_is_located_at(folder):
    made = stream(folder, {"prose": 3, "code": 2, "notes": 1})
    samples = np.arange(500)
    place, tokens = made.locate(samples), made.tokens(samples)
    for sample in samples:
        source = made.sources[place.source[sample]]
        first = int(place.window[sample]) * CONTEXT
        assert np.array_equal(tokens[sample], folder.row("train", source.name)[first : first + CONTEXT + 1])


@pytest.mark.parametrize("shuffle_tokens", [None, 1, 1000])
def test_every_window_of_every_source_comes_exactly_once_an_epoch_and_epochs_differ_in_order(folder, shuffle_tokens):
    made = stream(folder, shuffle_tokens=shuffle_tokens)
    sizes = [source.count(CONTEXT) for source in made.sources]
    place = made.locate(np.arange(3 * sum(sizes)))
    for number, size in enumerate(sizes):
        mine = place.source == number
        epochs = [place.window[mine & (place.epoch == epoch)] for epoch in range(3)]
        assert all(sorted(windows.tolist()) == list(range(size)) for windows in epochs)
        assert not np.array_equal(epochs[0], epochs[1])
    assert made.epochs(3 * sum(sizes)) == {"prose": 3.0, "code": 3.0, "notes": 3.0}


def test_the_seed_and_the_source_name_the_order(folder):
    orders = [stream(folder, seed=seed).locate(np.arange(200)) for seed in (0, 1)]
    assert not np.array_equal(orders[0].window, orders[1].window)
    alone = [
        Stream([source], Mixture(parse({}, {source.name: 1})), 0, CONTEXT, 0).locate(np.arange(10)).window.tolist()
        for source in folder.sources()
    ]
    assert alone[0] != alone[1]


def test_a_source_keeps_its_order_whatever_it_is_mixed_with(folder):
    sources = folder.sources()
    alone = Stream(sources[1:2], Mixture(parse({}, {"code": 1})), 5, CONTEXT, 0).locate(np.arange(50))
    mixed = stream(folder, {"prose": 1, "code": 1, "notes": 2}, seed=5).locate(np.arange(400))
    assert mixed.window[mixed.source == 1][:50].tolist() == alone.window.tolist()


def test_the_mixture_decides_how_much_of_each_source_is_read(folder):
    made = stream(folder, {"prose": 5, "code": 3, "notes": 2})
    for many in (10, 100, 1000):
        drawn = np.bincount(made.locate(np.arange(many)).source, minlength=3)
        assert drawn.tolist() == [many // 2, many * 3 // 10, many // 5]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)).map(lambda p: [p[0], p[0] + p[1]]), max_size=5))
def test_skipped_samples_are_never_served_and_the_rest_keeps_its_order(folder, ranges):
    skipped = {index for first, end in ranges for index in range(first, end)}
    kept = np.array([index for index in range(600) if index not in skipped][:300])
    made, plain = stream(folder, skips=ranges), stream(folder)
    assert np.array_equal(made.tokens(np.arange(300)), plain.tokens(kept))
    skips = Skips(ranges)
    assert [skips.sample(int(index)) for index in kept] == list(range(300))
    assert all(skips.sample(index) is None for index in skipped)


def test_a_range_ahead_changes_nothing_before_it(folder):
    assert np.array_equal(stream(folder, skips=[[50, 60]]).tokens(np.arange(50)), stream(folder).tokens(np.arange(50)))


@pytest.mark.parametrize("ranges", [[[1]], [[2, 2]], [[-1, 3]], [[0, 1.5]], ["01"], [[True, 2]]])
def test_ranges_that_are_none_are_refused(ranges):
    with pytest.raises(ConfigError, match="write \\[first, end\\]"):
        Skips(ranges)


def test_windows_across_shards_are_whole(folder):
    source, row = folder.source("train", "prose"), folder.row("train", "prose")
    for context in (1, 16, 333, 4000, row.size - 1):
        many = source.count(context)
        assert many == (row.size - 1) // context
        expected = np.stack([row[w * context : (w + 1) * context + 1] for w in range(many)])
        assert np.array_equal(source.windows(np.arange(many), context), expected)
    assert len(source) == row.size
    assert source.windows(np.arange(0), 16).shape == (0, 17)


def test_what_lies_outside_a_source_is_refused(folder):
    source = folder.source("train", "notes")
    for starts in ([-1], [len(source) - 3]):
        with pytest.raises(IndexError, match="outside"):
            source.gather(np.array(starts), 4)
    with pytest.raises(IndexError, match="there is none"):
        source.document(len(source))


@pytest.mark.parametrize("name", ["prose", "notes"])
def test_every_token_is_found_in_its_document(folder, name):
    source, row = folder.source("train", name), folder.row("train", name)
    number = np.concatenate([[0], np.cumsum(row == 0)[:-1]])
    for offset in [*range(0, row.size, 97), row.size - 1]:
        found = source.document(offset)
        assert found.number == number[offset]
        assert found.provenance == {"source": name, "record": int(number[offset])}
        assert found.first <= offset < found.end
        assert np.array_equal(row[found.first : found.end], np.append(folder.contents["train"][name][found.number], 0))


def test_an_explanation_names_all_documents_of_a_sample(folder):
    made = stream(folder, {"prose": 1, "code": 1, "notes": 1}, skips=[[3, 5]])
    for sample in (0, 3, 40, 999):
        why = made.explain(sample)
        assert why.index == sample + 2 * (sample >= 3)
        row = folder.row("train", why.source)
        assert np.array_equal(made.tokens(np.array([sample]))[0], row[why.first : why.first + CONTEXT + 1])
        numbers = np.concatenate([[0], np.cumsum(row == 0)[:-1]])[why.first : why.first + CONTEXT + 1]
        assert [document.number for document in why.documents] == sorted(set(numbers.tolist()))
        assert why.epoch == (sample and int(made.locate(np.array([sample])).epoch[0]))


def test_a_sample_can_be_looked_at_as_text(folder):
    made = stream(folder)
    shown = list(look(made, 4, 3, decode=lambda ids: " ".join(map(str, ids))))
    assert [sample.explanation.sample for sample in shown] == [4, 5, 6]
    for sample in shown:
        assert sample.text == " ".join(map(str, sample.ids))
        assert sample.starts == [place for place, token in enumerate(sample.ids) if token == 0]
        assert f"sample {sample.explanation.sample} " in str(sample)
        assert f"record {sample.explanation.documents[0].provenance['record']}" in str(sample)
    assert str(next(look(made, 4))).endswith(str(shown[0].ids))


def test_a_copy_in_another_process_reads_the_same(folder):
    made = stream(folder)
    before = made.tokens(np.arange(20))
    copied = pickle.dumps(made)
    assert len(copied) < 20_000, "what was read does not travel"
    assert np.array_equal(pickle.loads(copied).tokens(np.arange(20)), before)


def test_a_context_longer_than_a_source_says_what_fits(folder):
    tokens = len(folder.source("train", "notes"))
    with pytest.raises(
        ConfigError, match=rf"context=5000: .*{tokens} tokens of train source notes.*at most {tokens - 1}"
    ):
        stream(folder, {"prose": 1, "code": 1, "notes": 1}, context=5000)


def test_a_source_too_short_does_not_matter_when_it_is_never_drawn(folder):
    made = stream(folder, {"prose": 1, "code": 1, "notes": 0}, context=600)
    assert set(made.locate(np.arange(50)).source.tolist()) == {0, 1}


def test_sources_and_shares_must_be_as_many(folder):
    with pytest.raises(ValueError, match="cannot be mixed"):
        Stream(folder.sources(), Mixture(parse({}, {"one": 1})), 0, CONTEXT, 0)


def test_a_grouped_shuffle_uses_few_stretches_of_a_source_at_a_time(folder):
    sources = folder.sources()[:1]
    made = Stream(sources, Mixture(parse({}, {"prose": 1})), 0, 4, 0, shuffle_tokens=256)
    windows = made.locate(np.arange(64)).window
    assert len(Counter((windows // 8).tolist())) == 8


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 5).flatmap(
        lambda rows: st.integers(1, 9).flatmap(
            lambda length: st.lists(
                st.lists(st.integers(0, 2), min_size=length, max_size=length), min_size=rows, max_size=rows
            )
        )
    )
)
def test_documents_and_positions_are_told_from_the_end_tokens_alone(rows):
    tokens = np.array(rows, dtype=np.uint16).reshape(len(rows), -1)
    number, position = documents(tokens, 0)
    assert np.array_equal(number, np.cumsum(tokens == 0, axis=1))
    for row in range(len(rows)):
        since = 0
        for place in range(tokens.shape[1]):
            since = 0 if place == 0 or tokens[row, place] == 0 else since + 1
            assert position[row, place] == since
    assert (number.dtype, position.dtype) == (np.int32, np.int64)


def test_no_windows_have_no_documents():
    assert [made.shape for made in documents(np.zeros((0, 4), dtype=np.uint16), 0)] == [(0, 4), (0, 4)]
