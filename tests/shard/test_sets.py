"""Laws of sampled sets: read in turn, an epoch each, and counted as the one source that they are."""

from pathlib import Path

import numpy as np
import pytest

from groundup.core.errors import ConfigError, DataError
from groundup.shard.manifest import Holding, Manifest, Vocabulary, sets_of
from groundup.shard.mixture import Mixture
from groundup.shard.source import Source
from groundup.shard.storage import open_storage
from groundup.shard.stream import Stream
from groundup.shard.weights import parse
from groundup.shard.writer import Writer

CONTEXT = 16
SIZES = {"prose~1": 60, "prose~2": 61, "prose~3": 59, "code": 20, "notes~1": 7, "notes~2": 8}
"""Windows of each."""
SOURCES = {"prose": ["prose~1", "prose~2", "prose~3"], "code": ["code"], "notes": ["notes~1", "notes~2"]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Sources with and without sets."""
    path = tmp_path_factory.mktemp("sets")
    held = {}
    for name, windows in SIZES.items():
        writer = Writer(path, "train", name, "uint16", 300, vocabulary=1000, end=0)
        for part in np.split(np.random.default_rng(windows).integers(1, 1000, windows * CONTEXT), windows):
            writer.add(part[1:], 1, {})
        writer.add(np.array([5]), 1, {})
        held[name] = Holding.of(writer.close())
    Manifest(Vocabulary("digest", 1000, 0, "uint16"), {"train": held}).write(path)
    return [Source(open_storage(path), Manifest.read(path), "train", name) for name in held]


def stream(sources: list[Source], weights: dict[str, object], **options: int) -> Stream:
    sizes = {"prose": 60, "code": 20, "notes": 8}
    return Stream(sources, Mixture(parse(weights, sizes)), 3, CONTEXT, 0, **options)


def test_names_tell_the_sets_of_a_source(sources: list[Source]) -> None:
    assert sets_of(source.name for source in sources) == SOURCES
    assert {source.name: source.count(CONTEXT) for source in sources} == SIZES


@pytest.mark.parametrize("options", [{}, {"shuffle_tokens": 256}])
def test_each_epoch_of_a_source_is_every_window_of_the_next_set_once(
    sources: list[Source], options: dict[str, int]
) -> None:
    made = stream(sources, {"prose": 3, "code": 1, "notes": 2}, **options)
    place = made.locate(np.arange(3000))
    for names in SOURCES.values():
        numbers = [list(SIZES).index(name) for name in names]
        mine = np.isin(place.source, numbers)
        rows = list(
            zip(place.source[mine].tolist(), place.epoch[mine].tolist(), place.window[mine].tolist(), strict=True)
        )
        for epoch in range(5):
            number = numbers[epoch % len(names)]
            size = SIZES[names[epoch % len(names)]]
            now, rows = rows[:size], rows[size:]
            assert {(source, turn) for source, turn, _ in now} == {(number, epoch // len(names))}
            assert sorted(window for *_, window in now) == list(range(size))


def test_weights_are_a_sources_and_every_prefix_is_within_one_sample_of_them(sources: list[Source]) -> None:
    weights = {"prose": 3, "code": 1, "notes": 2}
    place = stream(sources, weights).locate(np.arange(2000))
    owner = np.array([list(SOURCES).index(name.partition("~")[0]) for name in SIZES])[place.source]
    counts = np.cumsum(owner[:, None] == np.arange(3), axis=0)
    due = np.arange(1, 2001)[:, None] * np.array([3, 1, 2]) / 6
    assert np.abs(counts - due).max() < 1


def test_a_source_without_sets_is_read_as_if_no_other_had_any(sources: list[Source]) -> None:
    alone = Stream(sources[3:4], Mixture(parse({}, {"code": 1})), 3, CONTEXT, 0).locate(np.arange(100))
    mixed = stream(sources, {"prose": 1, "code": 1, "notes": 1}).locate(np.arange(600))
    assert mixed.window[mixed.source == 3][:100].tolist() == alone.window.tolist()
    assert mixed.epoch[mixed.source == 3][:100].tolist() == alone.epoch.tolist()


def test_epochs_tell_how_often_the_text_was_read_whatever_its_segmentation(sources: list[Source]) -> None:
    made = stream(sources, {"prose": 1, "code": 0, "notes": 0})
    assert made.epochs(180) == {"prose": 3.0, "code": 0.0, "notes": 0.0}
    assert made.epochs(60)["prose"] == 1.0
    assert stream(sources, {"prose": 0, "code": 0, "notes": 1}).epochs(30)["notes"] == 4.0


def test_samples_are_the_windows_they_are_located_at_and_explained_by_their_set(sources: list[Source]) -> None:
    made = stream(sources, {})
    place, tokens = made.locate(np.arange(300)), made.tokens(np.arange(300))
    for sample in range(0, 300, 7):
        source = sources[place.source[sample]]
        assert np.array_equal(tokens[sample], source.windows(place.window[sample : sample + 1], CONTEXT)[0])
        assert made.explain(sample).source == source.name


def test_a_set_shorter_than_a_window_and_a_count_that_is_not_the_sources_are_refused(sources: list[Source]) -> None:
    with pytest.raises(ConfigError, match=r"context=200: .* train source notes~1 allow"):
        Stream(sources, Mixture(parse({}, {"prose": 1, "code": 1, "notes": 1})), 0, 200, 0)
    with pytest.raises(ValueError, match="3 sources cannot be mixed by 6 shares"):
        Stream(sources, Mixture(parse({}, SIZES)), 0, CONTEXT, 0)


@pytest.mark.parametrize("name", ["a~", "~1", "a~b", "a~1~2"])
def test_only_a_number_stands_behind_the_mark_of_a_set(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot name a file"):
        Writer(tmp_path, "train", name, "uint16", vocabulary=10, end=0)
