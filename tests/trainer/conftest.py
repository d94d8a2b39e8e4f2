"""What the tests of the trainer share: a tiny real corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundup.core.config import compose
from groundup.verb import prepare  # noqa: F401  # it registers what the verb is made of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's documentation topics as bytes; nobody changes them."""
    folder = tmp_path_factory.mktemp("data") / "topics"
    config = compose.composed(ROOT / "conf", "prepare", "source=[topics]", "tokenizer=bytes", f"path={folder}")
    config.check()
    config.run()
    return folder
