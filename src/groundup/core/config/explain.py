"""The text of `--help`: every group, its options, and the fields of those asked for."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

from groundup.core.config.schema import MISSING, groups

MANY = 16
"""Options of a group that the overview shows; those of a group asked for are all shown."""


def explain(verb: str, root: type, conf: Path, arguments: list[str]) -> str:
    """What `python <verb>.py --help [group ...]` prints.

    Without groups: the verb's own keys and one paragraph per group. With groups: every field of every
    kind in them, with its default and meaning.
    """
    asked = [word for word in arguments if word in groups() and word != "verb"]
    if asked:
        return "\n\n".join(_group_fields(name, conf) for name in asked)
    fields = {field.name: field for field in dataclasses.fields(root)}
    lines = [f"python {verb}.py [group=option ...] [key=value ...]", "", inspect.getdoc(root) or "", "", "Keys:"]
    lines += [_field(field) for name, field in fields.items() if name not in groups() and name != "kind"]
    lines += ["", f"Groups (python {verb}.py --help GROUP lists the keys of its kinds):"]
    lines += [_group(name, conf) for name in groups() if name in fields]
    program = conf / f"{verb}.yaml"
    chosen = program.read_text(encoding="utf-8") if program.is_file() else ""
    experiments = _presets("experiment", conf, set())
    if experiments and "experiment:" in chosen:
        lines.append(f"  experiment: named sets of overrides\n      experiment={' | '.join(experiments)}")
    debug = _presets("debug", conf, set())
    if debug and "debug:" in chosen:
        lines.append(f"  debug: quick looks at a run that goes wrong\n      debug={' | '.join(debug)}")
    lines += [
        "",
        "Any key takes an override, as in model.width=384; several values with --multirun run one after the other.",
        "--cfg job shows the whole config that would run; --config-dir adds a folder of your own presets;",
        "plugins=[my_package] imports your own components first.",
    ]
    return "\n".join(lines)


def _presets(group: str, conf: Path, kinds: set[str]) -> list[str]:
    return sorted(path.stem for path in (conf / group).glob("*.yaml") if path.stem not in kinds)


def _group(name: str, conf: Path, whole: bool = False) -> str:
    entry = groups()[name]
    presets = _presets(name, conf, set(entry.kinds))
    options = [*entry.kinds, *presets]
    if len(options) > MANY and not whole:
        options = [*entry.kinds, *presets[: MANY - len(entry.kinds)], f"... ({len(presets)} presets: --help {name})"]
    chosen = f"{name}=[{','.join(options)}]" if entry.many else f"{name}={' | '.join(options)}"
    indent = " " * 6
    lines = textwrap.wrap(chosen, 110, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join([f"  {name}: {entry.doc}", *lines])


def _group_fields(name: str, conf: Path) -> str:
    entry = groups()[name]
    parts = [_group(name, conf, whole=True).strip()]
    for kind, cls in entry.kinds.items():
        summary = (inspect.getdoc(cls) or "").splitlines()[0]
        parts.append(f"{kind}: {summary}")
        parts += [_field(field) for field in dataclasses.fields(cls) if field.name != "kind"]
    return "\n".join(parts)


def _field(field: dataclasses.Field[Any]) -> str:
    default: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    shown = "required" if default == MISSING else "null" if default is None else default
    choices = field.metadata.get("choices")
    allowed = f" ({' | '.join(choices)})" if choices else ""
    return f"  {field.name} = {shown}{allowed}: {field.metadata.get('doc', '')}"
