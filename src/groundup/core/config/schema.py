"""The registry of typed components: it knows dataclasses, groups and kinds, and neither Hydra nor torch.

A component is a dataclass registered under a config group and a kind:

    @schema("optimizer", "adamw")
    class AdamW:
        \"\"\"Adam with decoupled weight decay (Loshchilov & Hutter 2019).\"\"\"

        rate: float = option(3e-4, "peak learning rate", above=0)

`optimizer=adamw` then selects it on the command line and `optimizer.rate=1e-3` sets a field of it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import json
import operator
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar, dataclass_transform

from groundup.core.errors import ConfigError, nearest

T = TypeVar("T")
MISSING = "???"
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


@dataclasses.dataclass
class Group:
    """A config group: what it is for, whether several of its kinds may be chosen, and its kinds."""

    name: str
    doc: str = ""
    many: bool = False
    kinds: dict[str, type] = dataclasses.field(default_factory=dict)


_GROUPS: dict[str, Group] = {}


def group(name: str, doc: str, *, many: bool = False) -> None:
    """Say what a config group is for; with `many`, its kinds are chosen as a list: `callback=[a,b]`."""
    entry = _GROUPS.setdefault(name, Group(name))
    entry.doc, entry.many = doc, many


def groups() -> dict[str, Group]:
    """Every registered group by name."""
    return dict(_GROUPS)


def option(
    default: Any = MISSING,
    doc: str = "",
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    identity: bool = True,
) -> Any:
    """A documented field with the bounds a single value can be checked against.

    `identity=False` marks a field that does not define the mathematics of a run (workers, logging,
    limits), so that the run may go on under another value. Without a default the user must give one.
    A list or dict default is copied for each instance.
    """
    metadata = {
        "doc": doc,
        "identity": identity,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "below": below,
        "choices": choices,
    }
    if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=_copier(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _copier(value: Any) -> Callable[[], Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return lambda: dataclasses.replace(value)
    return lambda: copy.copy(value)


@dataclass_transform(kw_only_default=True, field_specifiers=(option, dataclasses.field))
def schema(group_name: str, kind: str) -> Callable[[type[T]], type[T]]:
    """Register a class as the component `kind` of a group, as a keyword-only dataclass with a `kind` field.

    Bounds given to `option` are checked on construction, before the class's own `__post_init__`.

    Raises:
        ValueError: the group already has another class of that kind.
    """

    def register(cls: type[T]) -> type[T]:
        own_check = getattr(cls, "__post_init__", None)

        def check(self: Any) -> None:
            check_bounds(self)
            if own_check is not None:
                own_check(self)

        namespace: Any = cls
        namespace.__post_init__ = check
        namespace.__annotations__ = {"kind": str, **inspect.get_annotations(cls)}
        namespace.kind = option(kind, "which component this is; chosen with the group, not set")
        made = dataclasses.dataclass(kw_only=True)(cls)
        entry = _GROUPS.setdefault(group_name, Group(group_name))
        before = entry.kinds.get(kind)
        if before is not None and (before.__module__, before.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{group_name}={kind} is registered twice: {before.__module__} and {cls.__module__}")
        entry.kinds[kind] = made
        return made

    return register


def check_bounds(config: Any) -> None:
    """Check every field against the bounds its `option` states.

    Raises:
        ConfigError: naming the field, its value, what is allowed and what to do.
    """
    for field in dataclasses.fields(config):
        value, meta = getattr(config, field.name), field.metadata
        if field.name == "kind" and value != field.default:
            raise ConfigError(f"kind={value}", f"this component is {field.default}", "choose another through its group")
        if isinstance(value, str) and value == MISSING:
            raise ConfigError(field.name, "needs a value", f"give {field.name}=... ({meta.get('doc', '')})")
        if value is None or not meta:
            continue
        where = f"{field.name}={value.value if isinstance(value, Enum) else value}"
        if isinstance(value, float) and value != value:
            raise ConfigError(where, "is not a number", "give a number")
        for name, holds in _BOUNDS.items():
            bound, words = meta.get(name), name.replace("_", " ")
            if bound is None:
                continue
            for item in value if isinstance(value, list) else [value]:
                if not holds(item, bound):
                    raise ConfigError(where, f"must be {words} {bound}", f"set it {words} {bound}")
        allowed = meta.get("choices")
        if allowed and value not in allowed:
            raise ConfigError(where, f"allowed: {', '.join(allowed)}", nearest(str(value), allowed))


def to_dict(config: Any) -> Any:
    """A config as plain dicts, lists and scalars, `kind` included, that JSON and YAML can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(v) for v in config]
    return config.value if isinstance(config, Enum) else config


def from_dict(group_name: str, values: Mapping[str, Any]) -> Any:
    """Build the component that `to_dict` wrote, looking its kind up in the registry.

    Nested components are found by the fields' own values: a mapping with a `kind` belongs to the group
    of the field's name.

    Raises:
        ConfigError: an unknown kind or key, with the nearest known name.
    """
    entry = _GROUPS.get(group_name)
    if entry is None:
        raise ConfigError(group_name, "is not a config group", nearest(group_name, _GROUPS))
    kind = str(values.get("kind"))
    cls = entry.kinds.get(kind)
    if cls is None:
        raise ConfigError(f"{group_name}.kind={kind}", "is not registered", nearest(kind, entry.kinds))
    names = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            raise ConfigError(f"{group_name}.{key}", f"is not an option of {kind}", nearest(key, names))
    try:
        return cls(**{key: _revive(key, value) for key, value in values.items()})
    except ConfigError as error:
        raise error.under(group_name) from None


def _revive(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if "kind" in value and name in _GROUPS:
            return from_dict(name, value)
        if name in _GROUPS and _GROUPS[name].many:
            return {key: from_dict(name, item) for key, item in value.items()}
    return value


def identity_of(config: Any) -> Any:
    """The part of a config that defines the mathematics: `to_dict` without the `identity=False` fields."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: identity_of(getattr(config, f.name))
            for f in dataclasses.fields(config)
            if f.metadata.get("identity", True)
        }
    if isinstance(config, Mapping):
        return {str(k): identity_of(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [identity_of(v) for v in config]
    return config.value if isinstance(config, Enum) else config


def fingerprint(plain: Any) -> str:
    """Sixteen hexadecimal digits that stand for a plain value: the hash of its canonical JSON."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
