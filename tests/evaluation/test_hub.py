"""A data set of the hub where there is no network: one line soon, and everything as before."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from groundup.evaluation import hub
from groundup.evaluation.config import Evaluation
from groundup.evaluation.scorer import Scorer
from groundup.evaluation.suite import Suite
from groundup.tokenizer.byte import Bytes


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that does not answer, and nothing downloaded before."""

    class Nobody:
        def head(self, url: str, timeout: float) -> None:
            raise OSError("no route")

    monkeypatch.setattr(hub, "get_session", Nobody)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "PAUSE", 0.0)


def test_without_a_network_a_task_of_the_hub_fails_soon_and_says_what_to_do(
    unplugged: None, tmp_path: Path, tokenizer: Bytes, build: Callable[..., Any]
) -> None:
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing\noutput_type: loglikelihood\ntest_split: test\n"
        "doc_to_text: a\ndoc_to_target: b\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    asked = Suite(Evaluation(tasks=["far"], include=[str(tmp_path)]), tokenizer, dict)
    began = time.monotonic()
    (result,) = asked.run(Scorer(build(), tokenizer, 4096), "fp32")
    assert time.monotonic() - began < 5
    assert result["error"] == (
        "the data set nobody/nothing: was not downloaded before, and Hugging Face's hub cannot be reached; put it at "
        "evaluation.data_dir=DIR as far/<split>.jsonl, or ask evaluation.tasks=[held_out], which prepare.py made"
    )
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_the_hub_is_asked_twice_and_not_at_all_when_it_must_not_be(
    unplugged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Client:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            if len(asked) == 1:
                raise OSError("a hiccup")

    monkeypatch.setattr(hub, "get_session", Client)
    assert hub.reached()
    assert asked == [constants.ENDPOINT] * 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.reached()
    assert len(asked) == 2


def test_local_tasks_ask_no_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Bytes, build: Callable[..., Any]
) -> None:
    monkeypatch.setattr(hub, "get_session", lambda: pytest.fail("the hub was asked"))
    (tmp_path / "rows.jsonl").write_text('{"a": "b"}\n')
    (tmp_path / "near.yaml").write_text(
        f"task: near\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "output_type: loglikelihood\ntest_split: test\ndoc_to_text: a\ndoc_to_target: b\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    asked = Suite(Evaluation(tasks=[str(tmp_path / "near.yaml")]), tokenizer, dict)
    (result,) = asked.run(Scorer(build(), tokenizer, 4096), "fp32")
    assert result["metrics"]
