"""A file of labelled examples in the place of prepared data: read, checked and prepared once."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from groundup.core import ranks
from groundup.core.config import fingerprint, to_dict
from groundup.core.errors import ConfigError, DataError
from groundup.core.files import atomic_json, checksum
from groundup.core.split import HELD_OUT, TRAIN, side
from groundup.core.split import fingerprint as text_fingerprint
from groundup.corpus.files import expand, lines
from groundup.data.config import Examples
from groundup.data.examples import Answered, ExampleWriter
from groundup.data.layout import Layout
from groundup.shard.manifest import Manifest
from groundup.tokenizer.load import load
from groundup.tokenizer.protocol import CARD, Tokenizer
from groundup.trainer.console import say
from groundup.verb.answers import Alignment, Example, Reader, check_fields
from groundup.verb.staging import CONFIG, MAKER, Standing, staged, standing

SUFFIXES = (".jsonl", ".ndjson")
FIELDS = ("text", "pair", "label", "score", "start", "end", "answer", "held_out_share")
"""Options that define what is prepared."""

CHUNK = 1024
"""Examples that are encoded at once."""


def check_fit(data: Any, objective: Any) -> None:
    """Examples are for an objective with a task, and text for the others.

    Raises:
        ConfigError: they do not fit.
    """
    labelled, asks = data.kind == "examples", hasattr(objective, "task")
    if labelled and not asks:
        raise ConfigError(f"objective={objective.kind}", "is not for labelled examples", "set objective=finetune")
    if asks and not labelled:
        what = "learns from labelled examples, not from text"
        raise ConfigError(f"objective={objective.kind}", what, "set data=examples data.path=FILE.jsonl")


def fill_in(data: Examples, objective: Any, manifest: Manifest) -> None:
    """Tell an objective what the examples say of its task.

    Raises:
        ConfigError: they were prepared for another task.
    """
    about = Answered.read(manifest, data.path)
    if about.task != objective.task:
        what = f"holds examples that were prepared for objective.task={about.task}"
        raise ConfigError(f"data.path={data.path}", what, "give their file, or that task")
    objective.classes, objective.mean, objective.deviation = about.classes, about.mean, about.deviation
    objective.context = data.context


def warn(manifest: Manifest, where: str) -> None:
    """Say how many held-out examples are trained on too."""
    about = Answered.read(manifest, where)
    if about.shared:
        measured = f"{about.shared:,} of {about.counts[HELD_OUT]:,} held-out examples have the texts of one that is"
        say(f"note: {measured} trained on: what is measured on them may be remembered")


def prepared(data: Examples, task: str, begun_with: str | None) -> Path:
    """The folder that a file of examples becomes, beside other data; a second run finds it there.

    Args:
        data: names file, fields and tokenizer.
        task: what examples are asked.
        begun_with: model folder whose tokenizer is taken where none is named; None: there is none.

    Raises:
        ConfigError: no tokenizer is known, or several processes train.
        DataError: an example that cannot be used, with its file and line.
    """
    check_fields(data, task)
    (file,) = expand([data.path], SUFFIXES)
    held_out = expand([data.held_out], SUFFIXES)[0] if data.held_out is not None else None
    tokenizer = _tokenizer(data, begun_with)
    options = {name: getattr(data, name) for name in FIELDS}
    hashed = [checksum(path) for path in (tokenizer / CARD, file, held_out) if path is not None]
    folder = Path("data") / f"{file.name.split('.')[0]}-{fingerprint([task, options, hashed])[:8]}"
    if standing(folder) is Standing.WHOLE:
        return folder
    if ranks.world() > 1:
        what = "is a file of examples, and several processes would prepare it at once"
        raise ConfigError(f"data.path={data.path}", what, "run once with one process and stop_steps=1")
    say(f"{data.path}: preparing it as {folder} with the tokenizer in {tokenizer}")
    with staged(folder) as place:
        atomic_json(place / CONFIG, {MAKER: version("groundup"), "task": task, "data": to_dict(data)})
        opened = load(tokenizer)
        opened.save(place / "tokenizer")
        preparing = _Preparing(data, task, opened, place)
        with preparing.writer:
            preparing.run(file, held_out)
    return folder


class _Preparing:
    """One pass over the examples, in constant memory but for their answers and a hash of each."""

    def __init__(self, data: Examples, task: str, tokenizer: Tokenizer, place: Path) -> None:
        self.data, self.task, self.tokenizer = data, task, tokenizer
        self.reader = Reader(data, task)
        self.alignment = Alignment(tokenizer)
        self.layout = Layout(data.context, tokenizer.end, task == "span")
        self.writer = ExampleWriter(place, tokenizer, task, data.pair is not None)
        self.counts = {TRAIN: 0, HELD_OUT: 0}
        self.scores = array("d")
        self.cut = 0

    def run(self, file: Path, held_out: Path | None) -> None:
        for path in (file, held_out):
            if path is not None:
                examples = self._read(path)
                while chunk := list(islice(examples, CHUNK)):
                    self._add(chunk, HELD_OUT if path is held_out else TRAIN if held_out is not None else None)
        self._check(file, held_out)
        if self.task == "classification":
            classes = self.reader.classes.close()
            self.writer.close(classes.names, order=classes.order)
            say(f"{len(classes.names)} classes: {', '.join(classes.names[:20])}")
        elif self.task == "regression":
            scores = np.array(self.scores)
            if scores.std() == 0:
                raise DataError(str(file), f"all scores are {scores[0]:g}", "give examples with different scores")
            self.writer.close(mean=float(scores.mean()), deviation=float(scores.std()))
        else:
            self.writer.close()
        longer = f", of which {self.cut:,} are longer than data.context={self.data.context} and cut" * bool(self.cut)
        say(f"{self.counts[TRAIN]:,} examples to train on and {self.counts[HELD_OUT]:,} held out{longer}")

    def _read(self, path: Path) -> Iterator[Example]:
        for number, line in lines(path):
            if line.strip():
                where = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    remedy = "correct the line; every line is one object"
                    raise DataError(where, f"is not JSON ({error})", remedy) from None
                yield self.reader.example(record, where, number)

    def _add(self, chunk: list[Example], split: str | None) -> None:
        columns = [self.tokenizer.encode_batch([e.texts[i] for e in chunk]) for i in range(len(chunk[0].texts))]
        for example, *ids in zip(chunk, *columns, strict=True):
            chosen = split or side(text_fingerprint(example.texts[0]), 0, self.data.held_out_share)
            self.counts[chosen] += 1
            answer = example.answer
            if self.task == "span":
                answer = self.alignment.tokens(example, ids[0])
            elif self.task == "regression" and chosen == TRAIN:
                self.scores.append(answer)
            elif self.task == "classification":
                answer = self.reader.classes.number(answer, chosen == TRAIN, example.where)
            sizes = [len(text.encode()) for text in example.texts]
            self.writer.add(chosen, list(zip(ids, sizes, strict=True)), answer, example.right, example.line)
            lengths = [len(part) for part in ids]
            self.cut += sum(self.layout.kept(lengths[0], lengths[1] if len(ids) > 1 else None)) < sum(lengths)

    def _check(self, file: Path, held_out: Path | None) -> None:
        if not self.counts[TRAIN]:
            raise DataError(str(file), "holds no example to train on", "give a file that has some")
        if not self.counts[HELD_OUT] and held_out is not None:
            raise DataError(str(held_out), "holds no example", "give a file that has some")
        if not self.counts[HELD_OUT]:
            what = f"holds out none of {self.counts[TRAIN]} examples"
            raise DataError(
                f"data.held_out_share={self.data.held_out_share}", what, "raise it, or give data.held_out=FILE"
            )


def _tokenizer(data: Examples, begun_with: str | None) -> Path:
    """The folder of the tokenizer that examples are read with."""
    given = data.tokenizer if data.tokenizer is not None else begun_with
    if given is None:
        what = "is a file of examples, and there are no weights whose tokenizer could be taken"
        raise ConfigError(f"data.path={data.path}", what, "give model.init_from=FOLDER or data.tokenizer=FOLDER")
    folder = Path(given).expanduser()
    for place in (folder, folder / "tokenizer"):
        if (place / CARD).is_file():
            return place
    where = f"data.tokenizer={given}" if data.tokenizer is not None else f"model.init_from={given}"
    raise ConfigError(where, "holds no tokenizer", "give the folder of a run, a tokenizer, or prepared data")
