"""A small corpus, and prepare on it: made, or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from groundup.core.errors import UserError
from groundup.corpus.config import Duplicate, JsonLines, Length, Text, Unicode
from groundup.tokenizer.config import Bytes
from groundup.verb.prepare import Prepare

STORIES = list(dict.fromkeys(text for topic in topics.values() for text in topic.split("\n\n") if text.strip()))[:200]


@pytest.fixture
def stories() -> list[str]:
    """Two hundred different texts."""
    return list(STORIES)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of JSON lines and of text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"text": story} for story in STORIES] + [{"text": STORIES[3]}, {"text": " "}, {"text": "nul \0"}]
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "poem.txt").write_text("\n\n".join(f"Verse {i}\n\tof a poem" for i in range(60)) + "\n\n" + STORIES[5])
    return folder


@pytest.fixture
def prepare(corpus: Path) -> Callable[..., Prepare]:
    """A config of prepare for the corpus with the given options; it writes beside the corpus, into `data`."""

    def configure(**changes: Any) -> Prepare:
        values: dict[str, Any] = {
            "path": str(corpus.parent / "data"),
            "source": {
                "stories": JsonLines(path=str(corpus / "stories.jsonl")),
                "poem": Text(path=str(corpus / "poem.txt"), document="paragraph"),
            },
            "step": {"unicode": Unicode(), "length": Length(), "duplicate": Duplicate()},
            "tokenizer": Bytes(),
            "held_out": 0.1,
            "shard_tokens": 2048,
        }
        return Prepare(**{**values, **changes})

    return configure


@pytest.fixture
def make(prepare: Callable[..., Prepare]) -> Callable[..., Path]:
    """The data folder that prepare makes with the given options."""

    def run(**changes: Any) -> Path:
        config = prepare(**changes)
        config.check()
        return config.run()

    return run


@pytest.fixture
def refused(prepare: Callable[..., Prepare]) -> Callable[..., None]:
    """Asserts that prepare refuses the given options with an error of a kind, in one line that says a pattern."""

    def refuse(kind: type[UserError], says: str, **changes: Any) -> None:
        config = prepare(**changes)
        with pytest.raises(kind, match=says) as caught:
            config.check()
            config.run()
        assert "\n" not in str(caught.value)

    return refuse


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file under a folder, by name."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
