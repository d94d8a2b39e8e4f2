"""A task's YAML file of a user's own, looked at before anything is asked: what is wrong, where, and what goes there."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types
from lm_eval.config.task import TaskConfig
from lm_eval.tasks._yaml_loader import load_yaml

from groundup.core.errors import ConfigError, nearest

_KEYS = {field.name for field in fields(TaskConfig)} | {"tag", "task_list"}


def check(path: Path) -> None:
    """See that a file names a task or a group, and that lm-eval knows a task's keys.

    Raises:
        ConfigError: with the file, and the line where that is known.
    """
    config = parsed(path)
    if not config.keys() & {"task", "group", "class"}:
        raise ConfigError(str(path), "names no task", "give it task: NAME")
    if config.keys() & {"group", "class"}:  # theirs are other keys
        return
    for key in config:
        if key not in _KEYS:
            close = nearest(str(key), _KEYS)
            remedy = close if close.startswith("did you") else "take it out"
            raise ConfigError(str(path), f"has the key {key}, which no task has", remedy)
    if not config.get("dataset_path") and "custom_dataset" not in config:
        remedy = "give dataset_path: json and dataset_kwargs: {data_files: {test: FILE}}, or a data set of the hub"
        raise ConfigError(str(path), "names no data", remedy)


def parsed(path: Path) -> dict[str, Any]:
    """The keys of a file, with those that it includes.

    Raises:
        ConfigError: it is no YAML, or includes what cannot be read.
    """
    try:
        found: dict[str, Any] = load_yaml(path, resolve_func=False)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}:{mark.line + 1}" if mark else str(path)
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        remedy = "write key: value, and quote texts with a brace, a colon or a hash in them"
        raise ConfigError(where, f"is no YAML ({why})", remedy) from None
    except OSError as error:
        raise ConfigError(str(path), f"needs {error.filename} ({error.strerror})", "correct include:") from None
    except ValueError as error:  # no keys, or files that include one another
        raise ConfigError(str(path), str(error), "write key: value") from None
    return found
