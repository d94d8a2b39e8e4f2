"""Tasks by name: lm-eval's own, a user's YAML files, and those that prepare.py made; they are not run here."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from groundup.core.errors import ConfigError, DataError, nearest
from groundup.evaluation import hub, task_file
from groundup.evaluation.held_out import CLOZE, CONTINUATION, NAMES

HELD_OUT = "held_out"
"""The name that stands for all tasks made by prepare.py."""

FORMS = {".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
YAML = (".yaml", ".yml")
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")

_MEAN = {"aggregation": "mean", "higher_is_better": True}
_TASKS: dict[str, dict[str, Any]] = {
    CLOZE: {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + word}}",
        "metric_list": [
            {"metric": "acc", **_MEAN},
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        ],
    },
    CONTINUATION: {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", **_MEAN}, {"metric": "acc_norm", **_MEAN}],
    },
}


class Catalogue:
    """Everything that can be asked for.

    lm-eval's list of thousands of names takes seconds to read, so it is read where a name is not known without it.

    Args:
        include: folders of a user's YAML files.
        data_dir: folder of local data for lm-eval's tasks, or None.
        held_out: called for the files of the tasks that prepare.py made, by name; where there are none, it raises.
    """

    def __init__(
        self, include: Sequence[str], data_dir: str | None, held_out: Callable[[], Mapping[str, Path]]
    ) -> None:
        self._include, self._data_dir, self._held_out = list(include), data_dir, held_out
        self._own: dict[str, Path] | None = None
        self._manager: Any = None
        self._complete = False

    def expand(self, names: Sequence[str]) -> list[str]:
        """The same names with `held_out` replaced by what it stands for.

        Raises:
            ConfigError: a name that is not known, with the nearest one; or a user's own file with a mistake in it.
            DataError: prepare.py made no tasks.
        """
        found: list[str] = []
        for name in names:
            if name == HELD_OUT:
                found += self._files()
            elif name in NAMES:
                if name not in self._files():
                    raise DataError(f"evaluation.tasks={name}", "there is no such question", "leave it out")
                found.append(name)
            elif name.endswith(YAML):
                if not Path(name).is_file():
                    raise ConfigError(f"evaluation.tasks={name}", "is not a file", "give the path of a task's YAML")
                task_file.check(Path(name))
                found.append(name)
            else:
                if name not in self._index(name):
                    for path in self._included():
                        task_file.parsed(path)  # lm-eval passes over a file that it cannot read
                    known = [*self._index(name), HELD_OUT, *NAMES]
                    close = nearest(name, known)
                    remedy = close if close.startswith("did you") else "see `lm_eval ls tasks` for the names"
                    raise ConfigError(f"evaluation.tasks={name}", "is no task of lm-eval", remedy)
                own = self._index(name)[name].yaml_path
                if own in self._included():
                    task_file.check(own)
                found.append(name)
        return found

    def load(self, name: str) -> Any:
        """A task, group or tag as lm-eval's `TaskManager.load` gives it, with its data.

        Raises:
            DataError: local data that lacks a split, or data of the hub, which cannot be reached.
            Exception: whatever lm-eval, `datasets` or a task's own code raises where it cannot be loaded.
        """
        if name in NAMES:
            return self._manage().load([{"task": name, **_made(self._files()[name]), **_TASKS[name]}])
        if self._data_dir is not None and not name.endswith(YAML):
            index = self._index(name)
            for leaf in set(_leaves(name, index)):
                self._localise(leaf, index)
        sources = [str(config["dataset_path"]) for config in self.configs(name) if _from_hub(config)]
        if not sources or hub.reached():
            return self._manage().load([name])
        try:
            with hub.offline():
                return self._manage().load([name])
        except ConnectionError:
            what = "was not downloaded before, and Hugging Face's hub cannot be reached"
            place = f"put it at evaluation.data_dir=DIR as {name}/<split>.jsonl"
            if name.endswith(YAML):
                place = "name local files in dataset_kwargs"
            remedy = f"{place}, or ask evaluation.tasks=[{HELD_OUT}], which prepare.py made"
            raise DataError(f"the data set {sources[0]}", what, remedy) from None

    def configs(self, name: str) -> list[dict[str, Any]]:
        """What their files say of the tasks that a name stands for; nothing of those made by prepare.py."""
        if name in NAMES:
            return []
        if not name.endswith(YAML):
            index = self._index(name)
            return [index[leaf].cfg or {} for leaf in _leaves(name, index)]
        config = load_yaml(name, resolve_func=False)
        if "group" not in config:
            return [config]
        index = self._index("")  # its members may be lm-eval's own
        return [index[leaf].cfg or {} for leaf in _members(name, config, index)]

    def _included(self) -> list[Path]:
        """The user's own files that lm-eval has looked at."""
        return [path for folder in self._include for path in sorted(Path(folder).glob("**/*.yaml"))]

    def _files(self) -> dict[str, Path]:
        if self._own is None:
            self._own = dict(self._held_out())
        return self._own

    def _manage(self) -> Any:
        if self._manager is None:
            self._manager = TaskManager(include_path=self._include or None, include_defaults=False)
        return self._manager

    def _index(self, name: str) -> dict[str, Any]:
        """The list in which a name stands: the user's own alone where that is enough."""
        found: dict[str, Any] = self._manage().task_index
        if (name not in found or found[name].kind is Kind.GROUP) and not self._complete:
            found |= {known: entry for known, entry in _packaged().items() if known not in found}
            self._complete = True
        return found

    def _localise(self, name: str, index: dict[str, Any]) -> None:
        """Let a task read local files, where the data folder has some for it."""
        entry = index[name]
        if entry.yaml_path is None:
            return
        config = load_yaml(entry.yaml_path, resolve_func=True)
        source = str(config.get("dataset_path") or "")
        if not source or source in FORMS.values():
            return
        folder = _folder(Path(str(self._data_dir)), name, source, config.get("dataset_name"))
        if folder is None:
            return
        splits = {config[key] for key in SPLITS if config.get(key)}
        files = {split: found for split in splits if (found := _split_files(folder, split))}
        needed = config.get("test_split") or config.get("validation_split")
        if needed not in files:
            what = f"has no file for the split {needed} of {name}"
            raise DataError(str(folder), what, f"put {needed}.jsonl, .csv or .parquet there")
        examples = ("training_split", "validation_split", "fewshot_split")
        for key in examples:
            if config.get(key) not in files:
                config[key] = None
        if not any(config[key] for key in examples):
            config["fewshot_split"] = needed  # so that no question is its own example
        form = next(form for end, form in FORMS.items() if files[needed][0].endswith(end))
        config |= {"dataset_path": form, "dataset_name": None, "dataset_kwargs": {"data_files": files}}
        index[name] = dataclasses.replace(entry, yaml_path=None, cfg=config)


@functools.cache
def _packaged() -> dict[str, Any]:
    """lm-eval's own list, read once."""
    found: dict[str, Any] = TaskManager().task_index
    return found


def read_items(path: Path) -> list[dict[str, Any]]:
    """The questions of a file of JSON lines.

    Raises:
        DataError: it is damaged.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "prepare the data again with fresh=true") from None


def _made(path: Path) -> dict[str, Any]:
    """What the configs of prepare.py's tasks have in common."""

    def dataset(**_: Any) -> Any:
        return {"test": datasets.Dataset.from_list(read_items(path))}

    return {"custom_dataset": dataset, "test_split": "test", "num_fewshot": 0, "metadata": {"version": 1.0}}


def _leaves(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks that a name stands for, as far as they have names of their own."""
    entry = index.get(name)
    if entry is None:
        return
    if entry.kind is Kind.TAG:
        for tagged in entry.tags:
            yield from _leaves(tagged, index)
    elif entry.kind is Kind.GROUP:
        yield from _members(name, entry.cfg or {}, index)
    else:
        yield name


def _members(name: str, config: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks of a group."""
    for member in config.get("task") or []:
        called = member if isinstance(member, str) else member.get("task", member.get("group"))
        if isinstance(called, str) and called != name:
            yield from _leaves(called, index)


def _from_hub(config: Mapping[str, Any]) -> bool:
    """Whether a task's data is neither in files nor made by a function."""
    source = config.get("dataset_path")
    return isinstance(source, str) and source not in FORMS.values() and not Path(source).exists()


def _folder(root: Path, task: str, source: str, part: Any) -> Path | None:
    """Where the data of a task may stand: by the task's name, or by its data set's."""
    last = source.rsplit("/", 1)[-1]
    names = [task, *([f"{last}/{part}"] if part else []), last]
    return next((root / name for name in names if (root / name).is_dir()), None)


def _split_files(folder: Path, split: str) -> list[str]:
    """The files of a split: one by its name, or parts as Hugging Face's hub names them."""
    whole = [folder / f"{split}{end}" for end in FORMS if (folder / f"{split}{end}").is_file()]
    parts = sorted(path for end in FORMS for path in folder.glob(f"{split}-*{end}"))
    return [str(path) for path in (whole[:1] or parts)]
