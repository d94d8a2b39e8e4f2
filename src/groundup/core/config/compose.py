"""From Hydra's composed tree to checked dataclasses; the only module that hands components to Hydra."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # it ships no types

from groundup.core.config.schema import groups
from groundup.core.errors import ConfigError, nearest

_STORED: dict[tuple[str, str], type] = {}
"""What Hydra has already: it makes a config of all that it is given."""


def store() -> None:
    """Make every registered kind an option of its Hydra group.

    A kind of a `many` group lands at `<group>.<kind>`; a verb's root is stored as `_<verb>_`, the first
    entry of `conf/<verb>.yaml`'s defaults list.
    """
    hydra_store = ConfigStore.instance()
    for entry in groups().values():
        for kind, cls in entry.kinds.items():
            if _STORED.get((entry.name, kind)) is cls:
                continue
            _STORED[entry.name, kind] = cls
            if entry.name == "verb":
                hydra_store.store(name=f"_{kind}_", node=cls)
            else:
                package = f"{entry.name}.{kind}" if entry.many else entry.name
                hydra_store.store(group=entry.name, name=kind, node=cls, package=package)


def composed(conf: Path, verb: str, *overrides: str) -> Any:
    """A verb's config as its command line would compose it, for a notebook, a test or a benchmark.

    Args:
        conf: the folder of presets; the verb's own module must have been imported.
        verb: its name.
        overrides: as on the command line.

    Raises:
        ConfigError: as `instantiate`; Hydra's own errors where an override cannot be composed.
    """
    store()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return instantiate(compose(verb, overrides=list(overrides)))


def parsed(text: str) -> Any:
    """What a YAML text says, as Hydra reads values: plain dicts, lists and scalars; {} for an empty one.

    Raises:
        ConfigError: it is no YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError("YAML", " ".join(str(error).split()), "correct it") from None


def instantiate(node: DictConfig, path: str = "") -> Any:
    """Build the dataclass that a composed node describes, inner components first.

    Raises:
        ConfigError: a key that is no option, a value that is missing, or a component's own check failing;
            `where` is the full dotted key.
    """
    cls = OmegaConf.get_type(node)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(path, "names no kind", "begin its YAML with `defaults: [<kind>]`")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in node:
        if str(key) not in fields:
            where = _join(path, str(key))
            raise ConfigError(where, f"is not an option of {_title(path, cls)}", nearest(str(key), fields))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        where = _join(path, name)
        if OmegaConf.is_missing(node, name):
            raise ConfigError(where, "needs a value", f"give {where}=... ({field.metadata.get('doc', 'required')})")
        try:
            value = node[name]
        except OmegaConfBaseException as error:
            raise ConfigError(where, str(error).splitlines()[0], "correct the interpolation") from None
        values[name] = _value(name, value, where)
    try:
        return cls(**values)
    except ConfigError as error:
        raise (error.under(path) if path else error) from None


def _value(name: str, value: Any, where: str) -> Any:
    if isinstance(value, DictConfig):
        cls = OmegaConf.get_type(value)
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            return instantiate(value, where)
        entry = groups().get(name)
        if entry is not None and entry.many:
            return {
                str(key): instantiate(_typed(name, item, _join(where, str(key))), _join(where, str(key)))
                for key, item in value.items()
            }
        if entry is not None:
            return instantiate(_typed(name, value, where), where)
        return {str(key): _value(str(key), item, _join(where, str(key))) for key, item in value.items()}
    if isinstance(value, ListConfig):
        return [_value("", item, f"{where}[{i}]") for i, item in enumerate(value)]
    return value


def _typed(group: str, node: Any, where: str) -> DictConfig:
    """Give an untyped mapping with a `kind` (a hand-written YAML) its registered type."""
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{where}={node}", "is not a component", f"choose one with {group}=...")
    if OmegaConf.get_type(node) is not dict:
        return node
    kinds = groups()[group].kinds
    kind = node.get("kind")
    if kind not in kinds:
        what = "names no kind" if kind is None else f"kind {kind} is not registered"
        raise ConfigError(where, what, f"begin its YAML with `defaults: [<kind>]`; {nearest(str(kind), kinds)}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kinds[kind]), node)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or where
        raise ConfigError(_join(where, str(key)), str(error).splitlines()[0], f"see --help {group}") from None
    assert isinstance(merged, DictConfig)
    return merged


def _title(path: str, cls: type) -> str:
    kind = next(field.default for field in dataclasses.fields(cls) if field.name == "kind")
    return f"{path} ({kind})" if path else f"{kind}.py"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
