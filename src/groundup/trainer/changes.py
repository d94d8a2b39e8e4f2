"""What may change in the midst of a run, and the config that changes come to; this knows no torch and no devices."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from groundup.core.config import from_dict, groups, schema
from groundup.core.config.schema import option
from groundup.core.errors import ConfigError, nearest

KINDS = ("optimizer", "schedule")
"""Groups of which another kind may take over."""

OPTIONS = (
    "data.batch_tokens",
    "data.ease_tokens",
    "data.skips",
    "data.weights",
    "model.activation",
    "model.attention_dropout",
    "model.dropout",
    "model.embedding_dropout",
    "model.softcap",
)
"""Options of other groups that may change: weights and what ids mean stay as they are."""

CHANGEABLE = (*KINDS, *(f"{name}." for name in (*KINDS, "objective")), *OPTIONS)
"""Where a dot is the last, all options below."""

MEANINGS = ("objective.sentinels", "objective.first_sentinel", "objective.mask_id")
"""Options by which ids mean what they mean."""


@schema("change", "at")
class Change:
    """A planned change of the run: from `tokens` on, these keys have these values."""

    tokens: int = option(doc="clock reading, in tokens, from which the change holds", at_least=1)
    set: dict[str, Any] = option(
        {}, "dotted keys and their new values; optimizer or schedule alone: another kind, with its defaults"
    )
    undo: list[str] = option([], "keys that go back to what the run began with; a group alone: all of its keys")


@dataclass(frozen=True)
class Turn:
    """A change as it enters the segments of a run.

    Attributes:
        tokens: clock reading from which it holds.
        set: dotted keys and their new values.
        undo: keys and groups that go back to the run's first config, before that.
        why: in words.
    """

    tokens: int
    set: Mapping[str, Any] = field(default_factory=dict)
    undo: tuple[str, ...] = ()
    why: str = ""


def turned(keys: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
    """What differs from the run's first config behind a turn, where `keys` did before it.

    Raises:
        ConfigError: what it would undo is as the run began.
    """
    kept = dict(keys)
    for name in turn.undo:
        gone = list(_below(name, kept))
        if not gone:
            remedy = "leave it out; what stands in changes.yaml is undone by taking it out there"
            raise ConfigError(f"changes: undo={name}", "nothing before has changed it", remedy)
        for key in gone:
            del kept[key]
    for name in turn.set:
        if name in KINDS:  # another kind has its own options
            for key in list(_below(name, kept)):
                del kept[key]
    return {**kept, **turn.set}


def _below(name: str, keys: Iterable[str]) -> Iterable[str]:
    return (key for key in keys if key == name or key.startswith(f"{name}."))


def apply(config: Any, keys: Mapping[str, Any]) -> Any:
    """A copy of a config with keys set, each component's own checks run again.

    Raises:
        ConfigError: a key that does not exist or may not change in flight, or a value its component refuses.
    """
    changed = copy.deepcopy(config)
    options: dict[str, dict[str, Any]] = {}
    for key, value in keys.items():
        group, dot, name = key.partition(".")
        if key == "tokens":
            changed.tokens = value
        elif key not in CHANGEABLE and not (dot and f"{group}." in CHANGEABLE):
            raise ConfigError(f"changes: {key}", "cannot change in flight", f"allowed: {', '.join(CHANGEABLE)}")
        elif key in MEANINGS:
            raise ConfigError(f"changes: {key}", "would give ids another meaning in flight", "begin another run")
        else:
            options.setdefault(group, {}).update({name: value} if dot else {})
    for group, values in options.items():
        setattr(changed, group, _changed(group, getattr(config, group, None), keys.get(group), values))
    return changed


def _changed(group: str, before: Any, kind: Any, values: dict[str, Any]) -> Any:
    """A component with other options, or of another kind with these options and else its defaults."""
    cls = type(before) if kind is None else groups()[group].kinds.get(str(kind))
    if cls is None:
        raise ConfigError(f"changes: {group}={kind}", "is not registered", nearest(str(kind), groups()[group].kinds))
    for name, value in values.items():
        _check_value(f"changes: {group}.{name}", cls, name, value)
    try:
        if kind is not None:
            return from_dict(group, {"kind": str(kind), **values})
        after = replace(before, **values)
    except (ConfigError, TypeError) as error:
        said = [*([f"{group}={kind}"] if kind else []), *(f"{group}.{name}={value}" for name, value in values.items())]
        raise ConfigError(f"changes: {', '.join(said)}", str(error), "correct the change") from None
    if getattr(before, "gated", None) != getattr(after, "gated", None):
        what = f"has other weights than {before.activation}"
        raise ConfigError(f"changes: {group}.activation={after.activation}", what, "begin another run")
    return after


def _check_value(where: str, cls: type, name: str, value: Any) -> None:
    """See that an option is there, and that a value is of its type; of lists and the like nothing is said here."""
    types = {entry.name: str(entry.type) for entry in fields(cls)} if is_dataclass(cls) else {}
    if name not in types or name == "kind":
        raise ConfigError(where, "no such option", nearest(name, set(types) - {"kind"}))
    if not _fits(value, types[name]):
        wanted = types[name].replace("None", "null")
        raise ConfigError(f"{where}={value}", f"must be {wanted}", "correct the change")


def _fits(value: Any, kind: str) -> bool:
    names = kind.split(" | ")
    plain: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
    if not set(names) <= {*plain, "None"}:
        return True
    if value is None or isinstance(value, bool):
        return ("None" if value is None else "bool") in names
    return any(isinstance(value, plain[name]) for name in names if name in plain and name != "bool")
