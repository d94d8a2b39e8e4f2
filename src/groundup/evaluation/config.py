"""The options of an evaluation; importing this imports neither torch nor lm-eval."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError

group("evaluation", "what a finished model is asked: tasks of lm-eval, or those that prepare.py made")


@schema("evaluation", "standard")
class Evaluation:
    """Tasks by name, with so many examples before each question, measured in batches of bounded size."""

    tasks: list[str] = option(
        ["held_out"], "tasks, groups or tags of lm-eval, YAML files; held_out: made by prepare.py"
    )
    num_fewshot: Any = option(None, "examples before each question, one number or a list; null: what each task says")
    limit: int | None = option(None, "questions of each task at most", at_least=1)
    data_dir: str | None = option(None, "folder of local data: <task>/<split>.jsonl, .json, .csv or .parquet")
    include: list[str] = option([], "folders of your own task YAMLs")
    batch_tokens: int | None = option(
        None, "tokens of a forward pass, padding included; null: 1,024 on a CPU, else 16,384", at_least=1
    )
    batch: int | None = option(
        None, "requests of a forward pass at most; null: as many as batch_tokens allow", at_least=1
    )
    context: int | None = option(None, "positions a request may take up; null: the model's", at_least=2)
    start: bool = option(True, "each text begins with the id between documents, as in training")
    seed: int = option(1234, "of the examples before questions, and of sampled answers", at_least=0)
    compile: bool = option(False, "compile the step that writes answers; it pays from some thousand tokens on")
    bootstrap: int = option(1000, "draws for standard errors of figures that are no mean; 0: no errors", at_least=0)

    def __post_init__(self) -> None:
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError("tasks", "names a task twice", "name each once")
        self.num_fewshot = _numbers(self.num_fewshot)
        if self.bootstrap == 1:
            raise ConfigError("bootstrap=1", "is too few draws for a standard error", "give 0 for none, or at least 2")
        for folder in self.include:
            if not Path(folder).is_dir():
                raise ConfigError(f"include={folder}", "is not a folder", "give folders that hold task YAMLs")
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise ConfigError(
                f"data_dir={self.data_dir}", "is not a folder", "give the folder that holds <task>/ folders"
            )

    @property
    def shots(self) -> list[int | None]:
        """The numbers of examples that are tried, None for what a task says itself."""
        return list(self.num_fewshot) if self.num_fewshot else [None]


def _numbers(given: Any) -> list[int] | None:
    """What `5`, `[0,5]` and `"0,5"` stand for."""
    if given is None:
        return None
    words = given if isinstance(given, list | tuple) else re.split(r"[,\s]+", str(given).strip("[] "))
    try:
        found = [int(word) for word in words]
    except ValueError:
        found = []
    if not found or min(found) < 0 or len(set(found)) < len(found):
        what = "is no number of examples, nor a list of different ones"
        raise ConfigError(f"num_fewshot={given}", what, "give one, as 5, or several, as [0,5]")
    return found
