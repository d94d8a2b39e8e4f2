"""A data folder of known tokens."""

from pathlib import Path

import numpy as np
import pytest

from groundup.shard.manifest import Holding, Manifest, Vocabulary
from groundup.shard.source import Source
from groundup.shard.storage import open_storage
from groundup.shard.writer import Writer

VOCABULARY, END = 1000, 0


def texts(seed: int, documents: int) -> list[np.ndarray]:
    """Documents of random ids and very different lengths, some of them empty."""
    draw = np.random.default_rng(seed)
    return [draw.integers(1, VOCABULARY, int(draw.choice([0, 1, 7, 40, 300]))) for _ in range(documents)]


def write(
    folder: Path, split: str, contents: dict[str, list[np.ndarray]], dtype: str, shard_tokens: int
) -> dict[str, Holding]:
    """Write one split."""
    made = {}
    for name, documents in contents.items():
        writer = Writer(folder, split, name, dtype, shard_tokens, vocabulary=VOCABULARY, end=END)
        for number, ids in enumerate(documents):
            writer.add(ids, 2 * ids.size, {"source": name, "record": number})
        made[name] = Holding.of(writer.close())
    return made


class Folder:
    """A data folder and what should be in it."""

    def __init__(self, path: Path, dtype: str = "uint16", shard_tokens: int = 1500) -> None:
        self.path = path
        self.contents = {
            split: {name: texts(seed, many) for name, seed, many in rows}
            for split, rows in {
                "train": [("prose", 1, 90), ("code", 2, 40), ("notes", 3, 12)],
                "held_out": [("prose", 4, 12), ("code", 5, 3)],
            }.items()
        }
        splits = {split: write(path, split, held, dtype, shard_tokens) for split, held in self.contents.items()}
        self.manifest = Manifest(Vocabulary("digest", VOCABULARY, END, dtype), splits, {"made by": "a test"})
        self.manifest.write(path)

    def row(self, split: str, name: str) -> np.ndarray:
        """All tokens of a source, as they should stand."""
        return np.concatenate([np.append(ids, END) for ids in self.contents[split][name]])

    def source(self, split: str, name: str) -> Source:
        """The source as it is read."""
        return Source(open_storage(self.path), self.manifest, split, name)

    def sources(self, split: str = "train") -> list[Source]:
        """All sources of a split."""
        return [self.source(split, name) for name in self.contents[split]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder that tests read."""
    return Folder(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def own(tmp_path: Path) -> Folder:
    """A folder that a test may damage."""
    return Folder(tmp_path / "data")
