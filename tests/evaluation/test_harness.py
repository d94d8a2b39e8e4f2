"""What lm-eval hands over and gets back, against lm-eval's own model of Hugging Face on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.core.errors import ConfigError
from groundup.evaluation.harness import Harness
from groundup.evaluation.scorer import Scorer
from groundup.model.load import save
from groundup.tokenizer.byte import Bytes


@pytest.fixture
def folder(build: Callable[..., Any], tokenizer: Bytes, tmp_path: Path) -> Path:
    """A model folder; what it writes are letters, since libraries show broken UTF-8 differently."""
    net = build(context=512)
    with torch.no_grad():
        net.head.weight[:97] = net.head.weight[123:] = 0
    save(net, net.config, tmp_path / "run")
    tokenizer.save(tmp_path / "run" / "tokenizer")
    return tmp_path / "run"


def test_a_text_begins_with_the_start_token_where_it_is_wanted(build: Callable[..., Any], tokenizer: Bytes) -> None:
    scorer = Scorer(build(), tokenizer, 4096)
    with_start = Harness(scorer, tokenizer)
    assert with_start.tok_encode("ab") == [tokenizer.end, *b"ab"]
    assert with_start.tok_encode("ab", add_special_tokens=False) == list(b"ab")
    assert Harness(scorer, tokenizer, start=False).tok_encode("ab") == list(b"ab")


def test_generation_arguments_are_taken_or_refused(build: Callable[..., Any], tokenizer: Bytes) -> None:
    harness = Harness(Scorer(build(), tokenizer, 4096), tokenizer, seed=7)
    greedy = harness.options({"until": "\n", "max_gen_toks": 9, "do_sample": False, "temperature": 0.9})
    assert (greedy.tokens, greedy.temperature, greedy.stop, greedy.seed) == (9, 0.0, ("\n",), 7)
    drawn = harness.options({"until": ["a", "b"], "do_sample": True, "temperature": 0.5, "top_p": 0.9})
    assert (drawn.temperature, drawn.top_p, drawn.stop, drawn.tokens) == (0.5, 0.9, ("a", "b"), 256)
    with pytest.raises(ValueError, match="beams"):
        harness.options({"beams": 4})


def test_the_command_lines_model_is_a_folder(folder: Path) -> None:
    harness = Harness.create_from_arg_string(f"run={folder},start=False,context=128", {"batch_size": 4})
    assert (harness.max_length, harness.start) == (128, False)
    with pytest.raises(ConfigError, match=r"pretrained.*is not known"):
        Harness.create_from_arg_obj({"pretrained": "x"})
    with pytest.raises(ConfigError, match="names no model"):
        Harness.create_from_arg_obj({})


@pytest.mark.parametrize("start", [False, True])
def test_every_answer_is_that_of_lm_evals_own_model_on_the_exported_weights(
    folder: Path, tokenizer: Bytes, tmp_path: Path, start: bool
) -> None:
    """The proof does this at full size; here a few requests of each kind."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from groundup.interop.folder import export

    export(folder, tmp_path / "hf")
    shape = {"batch_size": 3, "device": "cpu", "dtype": "float32", "max_length": 512}
    theirs = HFLM(pretrained=str(tmp_path / "hf"), add_bos_token=start, **shape)
    harness = Harness.create_from_arg_obj({"run": str(folder), "start": start}, {"batch_size": 5})
    pairs = [("Where is it? ", "Here"), ("Where is it?", " There now"), ("", "In the beginning"), ("a" * 600, " b")]
    for kind, arguments in (
        ("loglikelihood", pairs),
        ("loglikelihood_rolling", [("In the beginning",), ("x y " * 300,)]),
        ("generate_until", [("In the", {"until": ["\n"], "max_gen_toks": 8, "do_sample": False})]),
    ):
        asked = [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]
        mine, other = getattr(harness, kind)(asked), getattr(theirs, kind)(asked, disable_tqdm=True)
        if kind == "loglikelihood":
            assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]
            mine, other = [total for total, _ in mine], [total for total, _ in other]
        if kind == "loglikelihood_rolling" and start:
            continue  # theirs then puts two start tokens before the first window
        assert mine == (other if kind == "generate_until" else pytest.approx(other, abs=1e-3, rel=1e-6))
