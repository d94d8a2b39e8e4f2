"""What a model is worth, measured: held-out text, tasks and samples, inside one validation of Lightning's Trainer."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, cast

import lightning
import torch

from groundup.callback.config import Evaluation as Asking
from groundup.core import ranks
from groundup.core.bits import OF_TEXT, told
from groundup.core.config import from_dict
from groundup.core.errors import ConfigError, DataError
from groundup.core.files import atomic_json, storage_error, unused
from groundup.data.config import Shards
from groundup.data.opening import held_out_names, held_out_tasks, storage_of
from groundup.data.step import Step
from groundup.data.view import view_of
from groundup.evaluation.page import page, shown
from groundup.generation import Options, sample, stream
from groundup.objective.base import Objective, Setting
from groundup.shard.manifest import Manifest
from groundup.trainer import environment
from groundup.trainer.console import quiet, say
from groundup.trainer.device import device_of
from groundup.trainer.micro_batch import Found
from groundup.trainer.opening import Opened
from groundup.trainer.report import finite
from groundup.trainer.run import build_trainer

FIGURES = "evaluation.json"
SAMPLING = ("tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "beams", "length_penalty", "seed")
"""Options of the verb that say how text is written, by their names in `Options`."""


class Asked(Protocol):
    """What is read of the evaluate verb's config."""

    data_path: str | None
    evaluation: Any
    prompt: str
    prompts: list[str]
    tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    beams: int
    length_penalty: float
    seed: int
    strategy: Any
    trainer: Any


def measure(opened: Opened, asked: Asked, folder: Path) -> dict[str, Any]:
    """Every figure of the report, as plain values; each task's as soon as it is there also in a file.

    Args:
        opened: the model.
        asked: the verb's config.
        folder: for the file.

    Raises:
        ConfigError: a task that is not known, or a context longer than the model's.
        DataError: data that is asked for and missing or damaged.
    """
    quiet()
    _check(opened, asked)
    if asked.trainer.threads:
        torch.set_num_threads(asked.trainer.threads)
    accelerator, precision = device_of(asked.trainer)
    found: dict[str, Any] = {
        "name": opened.name,
        "run": str(opened.folder),
        "weights": opened.weights,
        "steps": opened.progress.steps,
        "tokens": opened.progress.tokens,
        "parameters": sum(parameter.numel() for parameter in opened.form.parameters()),
        "precision": precision,
        "environment": environment.summary(accelerator),
        "held_out": {},
        "unit": getattr(opened.objective, "unit", OF_TEXT),
        "results": [],
        "samples": [],
        "sampling": {name: getattr(asked, name) for name in SAMPLING},
    }
    begun = False

    def keep(result: dict[str, Any]) -> None:
        nonlocal begun
        if ranks.rank() == 0:
            if result.get("note") and result["task"] not in {told["task"] for told in found["results"]}:
                say(f"note: {result['task']}: {result['note']}")
            say(line(result))
            found["results"].append(result)
            if not begun:
                set_earlier_aside(folder)
                begun = True
            atomic_json(folder / FIGURES, finite(found))

    data = _data(opened, asked)
    if data is None and any(name.startswith("held_out") for name in asked.evaluation.tasks):
        where = f"data_path={opened.data.path if opened.data else None}"
        remedy = "give data_path=FOLDER, or evaluation.tasks=[...]"
        raise DataError(where, "is not there, and held-out tasks ask for it", remedy)
    writer = Writer(opened, asked.prompts, found["sampling"])
    found["held_out"] = _validate(opened, asked, data, folder, _evaluation(asked, keep), writer)
    found["samples"] = writer.samples
    if ranks.rank() == 0 and not begun:
        set_earlier_aside(folder)
    if ranks.rank() == 0 and found["held_out"]:
        say(told(found["held_out"], found["unit"]))
    return found


def _check(opened: Opened, asked: Asked) -> None:
    """What the model cannot be asked.

    Raises:
        ConfigError: a context longer than its own, tasks of a network that gives no likelihoods, or a network that
            cannot be spread so.
    """
    if hasattr(asked.strategy, "check"):
        row = SimpleNamespace(kind="shards", context=opened.form.context, samples=1, rows=1)
        asked.strategy.check(ranks.world(), opened.model, row if opened.data is None else opened.data)
    if asked.evaluation.context is not None and asked.evaluation.context > opened.form.context:
        where = f"evaluation.context={asked.evaluation.context}"
        raise ConfigError(
            where, f"is longer than the model's {opened.form.context} positions", "shorten or leave it out"
        )
    if asked.evaluation.tasks and not hasattr(opened.form, "likelihoods"):
        if asked.evaluation.tasks == ["held_out"]:  # nobody asked for them
            say("left out: the held-out tasks, which ask how likely a continuation is; this network says no such thing")
            asked.evaluation.tasks = []
            return
        what = "ask a network for likelihoods, and this one gives none"
        raise ConfigError("evaluation.tasks", what, "give evaluation.tasks=[]")


def _data(opened: Opened, asked: Asked) -> Shards | None:
    """The data whose held-out text is measured: what is asked for, or what the model was trained on if it is there."""
    if asked.data_path is not None:
        context = opened.form.context
        shape = {"kind": "shards", "context": context, "batch_tokens": 16 * context}
        base: Shards = opened.data or from_dict("data", {**shape, "path": asked.data_path})
        data = dataclasses.replace(base, path=asked.data_path, weights={}, skips=[])
    elif opened.data is None:
        return None
    else:
        data = opened.data
    try:
        manifest = Manifest.read(storage_of(data))
    except DataError as error:
        if asked.data_path is not None:
            raise
        say(f"note: held-out text is not measured: {error}")
        return None
    if manifest.tokenizer.digest != opened.tokenizer.digest:
        what = "was made with another tokenizer than the model's"
        raise DataError(
            f"data_path={data.path}", what, "prepare it with tokenizer=pretrained and the model's tokenizer"
        )
    return data


class Writer(lightning.Callback):
    """Lets the net write at the end of a validation: on rank 0 alone, or where it is spread on all of them together.

    Attributes:
        samples: each with its `prompt` and `text`.
    """

    def __init__(self, opened: Opened, prompts: list[str], options: dict[str, Any]) -> None:
        self._opened, self._options = opened, options
        self._prompts = prompts if hasattr(opened.form, "new_cache") else []
        self.samples: list[dict[str, str]] = []

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write."""
        if self._prompts and (trainer.is_global_zero or not getattr(trainer.strategy, "whole", True)):
            net: Any = cast(Objective, pl_module).nets["model"]
            texts = sample(net, self._opened.tokenizer, self._prompts, **self._options)
            self.samples = [{"prompt": p, "text": text} for p, text in zip(self._prompts, texts, strict=True)]


def _validate(
    opened: Opened, asked: Asked, data: Shards | None, folder: Path, evaluation: Any, writer: Writer
) -> dict[str, float]:
    """Held-out bits per byte; tasks and samples are asked for inside the same validation, be it of no text."""
    sources = held_out_names(Manifest.read(storage_of(data))) if data is not None else []
    setting = Setting(
        seed=opened.seed,
        first=opened.progress,
        total=opened.progress,
        folder=opened.folder,
        tokenizer=opened.tokenizer,
        sources=sources,
        precision=device_of(asked.trainer)[1],
    )
    module = opened.objective.build(opened.model, None, None, setting)
    callbacks = [writer] if evaluation is None else [evaluation, writer]
    trainer = build_trainer(asked, callbacks, [], folder, held_out=True)
    if getattr(trainer.strategy, "whole", True):
        module.nets["model"] = opened.net
    else:
        module.read(opened.fill)
    if evaluation is not None:
        evaluation.prepare(module, lambda: held_out_tasks(storage_of(data)) if data is not None else {})
    if data is not None and sources:
        view = view_of(opened.objective, opened.seed, opened.tokenizer, opened.model)
        share = asked.strategy.share(ranks.world(), ranks.rank())
        text = Found(opened.folder).used(data).build(opened.seed, opened.progress, 0, *share, view)
        trainer.validate(module, datamodule=text, verbose=False)
    else:  # a step without micro-batches, since Lightning validates nothing on nothing
        trainer.validate(module, dataloaders=[[Step(0, 0, 0, 1, 0, [], [])]], verbose=False)
    return dict(module.validation)


def _evaluation(asked: Asked, keep: Any) -> Any:
    """The callback that asks the tasks; None where there are none."""
    if not asked.evaluation.tasks:
        return None
    from groundup.callback.evaluation import Evaluation

    values = {field.name: getattr(asked.evaluation, field.name) for field in dataclasses.fields(asked.evaluation)}
    return Evaluation(Asking(**{**values, "kind": "evaluation"}), keep, _tell)


def set_earlier_aside(folder: Path) -> None:
    """Move the files of an earlier report into a folder of their own, so that nothing measured is lost.

    Raises:
        StorageError: they cannot be moved.
    """
    if not (folder / FIGURES).is_file():
        return
    place = unused(lambda number: folder / f"earlier-{number}")
    try:
        place.mkdir()
        for path in sorted(folder.iterdir()):
            if path.is_file():
                path.rename(place / path.name)
    except OSError as error:
        raise storage_error(folder, error) from error
    say(f"the earlier report is now in {place}")


def write_report(figures: dict[str, Any], folder: Path) -> Path:
    """Write evaluation.json, evaluation.html, evaluation.md and their pictures.

    Returns:
        The HTML page.

    Raises:
        StorageError: a file cannot be written.
    """
    atomic_json(folder / FIGURES, finite(figures))
    return page(figures, folder).write(folder, "evaluation")[0]


def write_text(opened: Opened, asked: Asked) -> None:
    """Print a prompt and, as it comes, what the model writes after it."""
    if not hasattr(opened.net, "new_cache"):
        raise ConfigError("task=sample", "asks a network to write, and this one cannot", "give task=report")
    if asked.trainer.threads:
        torch.set_num_threads(asked.trainer.threads)
    accelerator, _ = device_of(asked.trainer)
    options = Options(**{name: getattr(asked, name) for name in SAMPLING})
    print(asked.prompt, end="\n" if opened.net.reads_source else "", flush=True)  # a source is not gone on from
    for piece in stream(opened.net.to(accelerator), opened.tokenizer, asked.prompt, options):
        print(piece, end="", flush=True)
    print(flush=True)


def line(result: dict[str, Any]) -> str:
    """A result in the terminal."""
    shots = f", {result['num_fewshot']} examples" if result["num_fewshot"] else ""
    if result.get("error"):
        return f"{result['task']}{shots}: failed: {result['error']}"
    figures = ", ".join(f"{metric['name']} {shown(metric['value'])}" for metric in result["metrics"])
    questions = "" if result["questions"] is None else f"{result['questions']} questions, "
    return f"{result['task']}{shots}: {figures} ({questions}{result['seconds']:.1f} s)"


def _tell(done: int, total: int) -> None:
    """Requests done, on a terminal alone."""
    if sys.stderr.isatty() and ranks.rank() == 0:
        print(f"\r{done:,} of {total:,} requests", end="\n" if done == total else "", file=sys.stderr, flush=True)
