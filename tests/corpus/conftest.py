"""What the corpus tests share: the public copy of the Bible's text where it is at hand."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def public_text() -> Path:
    """The folder of public texts; without it the test is skipped, or fails where CI=true."""
    for folder in (ROOT / "shared/data/text", ROOT.parent / "shared/data/text"):
        if folder.is_dir():
            return folder
    reason = f"no public texts at {ROOT.parent / 'shared/data/text'}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
