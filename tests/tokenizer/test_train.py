"""Training is a function of the texts and the config, and says what cannot be."""

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.errors import ConfigError, DataError
from groundup.tokenizer.config import BPE
from groundup.tokenizer.train import sample, train

PROGRAM = """
import hashlib, sysconfig
from pathlib import Path
from groundup.tokenizer.config import BPE
from groundup.tokenizer.train import train
library = Path(sysconfig.get_path("stdlib"))
texts = [(library / name).read_text("utf-8") for name in ("argparse.py", "decimal.py", "textwrap.py", "ast.py")]
print(hashlib.sha256(train(BPE(vocabulary=1024), texts)).hexdigest())
"""


def test_the_same_texts_in_any_order_give_the_same_model(code: list[str]) -> None:
    assert train(BPE(vocabulary=600), code) == train(BPE(vocabulary=600), code[::-1])


def test_another_process_trains_the_same_model() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_vocabulary_has_the_size_asked_for(code: list[str]) -> None:
    assert BPE(vocabulary=777).build(lambda: iter(code)).vocabulary == 777


def test_a_sample_is_bounded_and_the_same_for_a_seed_in_any_order(code: list[str]) -> None:
    chosen = sample(code, 50_000, 1)
    size = sum(len(chunk.encode()) for chunk in chosen)
    assert 45_000 < size <= 50_000
    assert chosen == sample(code[::-1], 50_000, 1)
    assert chosen != sample(code, 50_000, 2)
    assert all(any(chunk in text for text in code) for chunk in chosen)


@given(st.lists(st.text("ab ", min_size=1, max_size=9), max_size=40), st.integers(1, 60), st.randoms())
def test_no_order_of_texts_changes_the_sample(texts: list[str], limit: int, random: Random) -> None:
    chosen = sample(texts, limit, 3)
    random.shuffle(texts)
    assert sample(texts, limit, 3) == chosen


def test_a_sample_larger_than_the_text_is_all_of_it(code: list[str]) -> None:
    assert sum(map(len, sample(code, 10**9, 0))) == sum(map(len, code))


@pytest.mark.parametrize(
    ("config", "texts", "says"),
    [
        (BPE(vocabulary=50_000), ["some words " * 9], "vocabulary=50000: the text is too small"),
        (BPE(vocabulary=512, coverage=1), ["".join(map(chr, range(0x4E00, 0x5600)))], "too small for the characters"),
    ],
)
def test_a_vocabulary_that_does_not_fit_the_text_is_named(config: BPE, texts: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config.build(lambda: iter(texts))


def test_no_text_is_an_error() -> None:
    with pytest.raises(DataError, match="no text to train on"):
        BPE().build(lambda: iter(()))


@pytest.mark.parametrize("values", [{"vocabulary": 511}, {"sample_mb": 0}, {"coverage": 1.5}, {"longest_piece": 0}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        BPE(**values)
