"""A list of tasks run on a network: every figure with how it was made; a task that fails takes no other with it."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.evaluator
import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from groundup.core.errors import UserError
from groundup.evaluation import rows
from groundup.evaluation.config import Evaluation
from groundup.evaluation.harness import Answers, Harness
from groundup.evaluation.tasks import SPLITS, YAML, Catalogue
from groundup.tokenizer.protocol import Tokenizer

Result = dict[str, Any]
"""What one task with one number of examples gave, as plain values: see `Suite.run`."""


class Suite:
    """The tasks of a config, loaded once, and run as often as there are weights to be measured.

    Args:
        options: what is asked, and how.
        tokenizer: of the model.
        held_out: gives the files of the tasks that prepare.py made, by name; raises DataError where there are none.

    Raises:
        ConfigError: a task that is not known, or a user's own file with a mistake in it.
        DataError: prepare.py made no tasks, and they are asked for.
    """

    def __init__(self, options: Evaluation, tokenizer: Tokenizer, held_out: Callable[[], Mapping[str, Path]]) -> None:
        quiet()
        self.options, self.tokenizer = options, tokenizer
        self._catalogue = Catalogue(options.include, options.data_dir, held_out)
        self.names = self._catalogue.expand(options.tasks)
        self._loaded: dict[str, Any] = {}
        self._own: dict[str, dict[str, int | None]] = {}

    def run(
        self,
        answers: Answers,
        dtype: str,
        done: Callable[[Result], None] | None = None,
        errors: bool = True,
    ) -> list[Result]:
        """Ask everything.

        Args:
            answers: what answers, a `Scorer` of the network.
            dtype: what its forward passes compute in, for the record.
            done: called with each result as it comes.
            errors: also estimate standard errors.

        Returns:
            A result per task and number of examples: `task`, `group` (it is the mean of its tasks, if true),
            `num_fewshot`, `metrics` (each `name`, `filter`, `value`, `stderr`), `questions`, `chance` (of a multiple
            choice, else None), `version` and `hash` of the task, `seconds`, `shortened` (requests that lost tokens at
            their left), `note` (what else is to be said of the task, or None), and how it was asked: `limit`, `batch`,
            `batch_tokens`, `start`, `context`, `dtype`, `seed`, `versions`. A task that failed has `error` in the place
            of what it did not give.
        """
        found: list[Result] = []
        asked: set[tuple[Any, ...]] = set()
        how = {
            "limit": self.options.limit,
            "batch": self.options.batch,
            "batch_tokens": getattr(answers, "batch_tokens", None),
            "start": self.tokenizer.end if self.options.start else None,
            "context": answers.context,
            "dtype": dtype,
            "seed": self.options.seed,
            "versions": {name: version(name) for name in ("groundup", "torch", "lm_eval", "datasets")},
        }
        with undisturbed():
            for shots in self.options.shots:
                for name in self.names:
                    for result in self._ask(name, shots, answers, errors, asked):
                        found.append({**result, **how})
                        if done is not None:
                            done(found[-1])
        return found

    def _ask(
        self, name: str, shots: int | None, answers: Answers, errors: bool, asked: set[tuple[Any, ...]]
    ) -> list[Result]:
        began = time.perf_counter()
        before = getattr(answers, "shortened", 0)
        try:
            loaded = self._load(name)
            key = (name, *self._set_shots(name, loaded, shots))
            if key in asked:
                return []  # its tasks say themselves how many examples they take
            asked.add(key)
            draw_from(self.options.seed)
            outcome = lm_eval.evaluator.evaluate(
                Harness(
                    answers,
                    self.tokenizer,
                    start=self.options.start,
                    seed=self.options.seed,
                    compile=self.options.compile,
                ),
                loaded,
                limit=self.options.limit,
                bootstrap_iters=self.options.bootstrap if errors else 0,
                log_samples=True,
            )
        except Exception as error:  # a task is foreign code about foreign data: told, and left out
            why = said(name, error, self._catalogue.configs(name))
            return [{"task": name, "group": False, "num_fewshot": shots, "error": why}]
        spent = {"seconds": time.perf_counter() - began, "shortened": getattr(answers, "shortened", 0) - before}
        return [{**result, **spent, "note": self._note(name, result["task"])} for result in _results(outcome)]

    def _note(self, name: str, task: str) -> str | None:
        if any(self.options.shots) and self._own[name].get(task) == 0:
            return "its own number of examples, 0, stands, whatever num_fewshot says"
        return None

    def _load(self, name: str) -> Any:
        if name not in self._loaded:
            loaded = self._catalogue.load(name)
            self._own[name] = {key: task.get_config("num_fewshot") for key, task in loaded["tasks"].items()}
            self._loaded[name] = loaded
        return self._loaded[name]

    def _set_shots(self, name: str, loaded: Any, shots: int | None) -> list[int]:
        """Give each task its number of examples; one that says 0 itself keeps it, as in lm-eval."""
        numbers = []
        for key, task in loaded["tasks"].items():
            own = self._own[name][key]
            numbers.append(own or 0 if shots is None or own == 0 else shots)
            task.set_config(key="num_fewshot", value=numbers[-1])
            task.set_fewshot_seed(seed=self.options.seed)
        return numbers


def _results(outcome: Any) -> Iterator[Result]:
    """lm-eval's outcome as plain rows, groups behind their tasks."""
    for group, found in ((False, outcome["results"]), (True, outcome.get("groups") or {})):
        for name, values in found.items():
            if not group and name in outcome["group_subtasks"]:
                continue
            samples = (outcome.get("samples") or {}).get(name, [])
            config = outcome["configs"].get(name, {})
            yield {
                "task": name,
                "group": group,
                "num_fewshot": outcome["n-shot"].get(name),
                "metrics": _metrics(values),
                "questions": (outcome["n-samples"].get(name) or {}).get("effective"),
                "chance": _chance(samples) if config.get("output_type") == "multiple_choice" else None,
                "version": outcome["versions"].get(name),
                "hash": _hash(samples) if samples else None,
            }


def _metrics(values: Mapping[str, Any]) -> list[Result]:
    found = []
    for key, value in values.items():
        name, _, kept = key.partition(",")
        if kept and not name.endswith("_stderr") and isinstance(value, int | float):
            error = values.get(f"{name}_stderr,{kept}")
            error = float(error) if isinstance(error, int | float) else None
            found.append({"name": name, "filter": kept, "value": float(value), "stderr": error})
    return found


def _chance(samples: list[Any]) -> float | None:
    """What guessing scores: the mean over questions of one in so many choices."""
    shares = {sample["doc_id"]: 1 / len(sample["arguments"]) for sample in samples if sample["arguments"]}
    return sum(shares.values()) / len(shares) if shares else None


def _hash(samples: list[Any]) -> str:
    """lm-eval's own hash of a task: of every question, prompt and target."""
    text = "".join(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples)
    return hashlib.sha256(text.encode()).hexdigest()


def said(name: str, error: Exception, configs: Sequence[Mapping[str, Any]] = ()) -> str:
    """Why a task failed, in a line, with what to do where that is known.

    Args:
        name: of the task.
        error: what it ended with.
        configs: see `Catalogue.configs`.
    """
    if isinstance(error, UserError):
        return str(error)
    while isinstance(error, datasets.exceptions.DatasetGenerationError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # itself it says nothing
    text = rows.told(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the device's memory is full ({text}); lower evaluation.batch_tokens"
    split = str(error.args[0]) if isinstance(error, KeyError) and error.args else None
    if split in {config.get(key) for config in configs for key in SPLITS} - {None}:
        remedy = f"name another in its YAML, or give dataset_kwargs: {{data_files: {{{split}: FILE}}}}"
        return f"its data has no split {split}; {remedy}"
    paths = rows.files(configs)
    bad = rows.blamed(error, paths)
    if bad is not None:
        return str(bad)
    kind = type(error).__name__
    if isinstance(error, ConnectionError | datasets.exceptions.DatasetsError | FileNotFoundError) or "Hub" in kind:
        if name.endswith(YAML):
            return f"its data cannot be had ({text}); see dataset_path and dataset_kwargs there"
        where = f"put it at evaluation.data_dir=DIR as {name}/<split>.jsonl"
        return f"its data cannot be had ({text}); {where}, or go online"
    return f"{text} (its data: {paths[0]})" if paths else text


def draw_from(seed: int) -> None:
    """Seed the generators that tasks draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # tasks use it
    torch.manual_seed(seed)


@contextmanager
def undisturbed() -> Iterator[None]:
    """After this block the generators of Python, NumPy and torch are as before."""
    states = random.getstate(), np.random.get_state()  # tasks seed it
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def quiet() -> None:
    """Keep lm-eval's and datasets' remarks and bars from the terminal; errors still show."""
    for name in ("lm_eval", "lm-eval", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # local files are nobody's business
    lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)  # it has no switch of its own
    lm_eval.api.metrics.bootstrap_stderr = _bootstrap_stderr  # looked up when it is needed


def _bootstrap_stderr(f: Callable[[Sequence[Any]], float], xs: Sequence[Any], iters: int) -> float:
    """lm-eval's standard error by bootstrap, in this process: its own forks, which torch and a GPU do not bear."""
    chunk = min(1000, iters)
    drawn: list[float] = []
    for number in range(iters // chunk):
        draw = random.Random(number)
        drawn += [f(draw.choices(xs, k=len(xs))) for _ in range(chunk)]
    return float(np.std(drawn, ddof=1))
