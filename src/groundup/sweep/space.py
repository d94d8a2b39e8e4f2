"""What may be drawn from a space, as values and as overrides of the command line; who draws is not known here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from groundup.core.errors import ConfigError
from groundup.sweep.config import Parameter, alternatives

Space = Mapping[str, Parameter]
Chosen = dict[str, Any]
"""A value for each parameter that a trial has, by the parameter's name."""


def applies(parameter: Parameter, chosen: Chosen) -> bool:
    """Whether a parameter is drawn at all, given those drawn before it."""
    return all(name in chosen and chosen[name] in alternatives(wanted) for name, wanted in parameter.when.items())


def points(space: Space) -> list[Chosen]:
    """Every point of a grid, the last parameter changing fastest.

    Raises:
        ConfigError: a parameter has no end of values.
    """
    found: list[Chosen] = [{}]
    for name, parameter in space.items():
        try:
            values = parameter.values()
        except ConfigError as error:
            raise error.under(f"sweep.space.{name}") from None
        found = [
            {**point, **more}
            for point in found
            for more in ([{name: value} for value in values] if applies(parameter, point) else [{}])
        ]
    return found


def overrides(space: Space, chosen: Chosen) -> list[str]:
    """The overrides that set what was chosen, in the order of the space."""
    return [f"{space[name].key or name}={text(value)}" for name, value in chosen.items()]


def probes(space: Space) -> Iterator[tuple[str, Chosen]]:
    """For each parameter, choices that set it to its bounds or each of its values, and what its conditions need.

    Other parameters are left as they are, so that an error belongs to the one named.
    """
    for name, parameter in space.items():
        for end in parameter.ends():
            yield name, {**_needed(space, parameter), name: end}


def _needed(space: Space, parameter: Parameter) -> Chosen:
    chosen: Chosen = {}
    for name, wanted in parameter.when.items():
        chosen = {**chosen, **_needed(space, space[name]), name: alternatives(wanted)[0]}
    return chosen


def text(value: Any) -> str:
    """A value as Hydra's grammar reads it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(text(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}: {text(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and not _plain_word(value):
        doubled = re.sub(r"\\+(?='|$)", lambda found: 2 * found[0], value)  # else they would escape the quote
        escaped = doubled.replace("'", "\\'")
        return f"'{escaped}'"
    return repr(value) if isinstance(value, float) else str(value)


def _plain_word(value: str) -> bool:
    """Whether a string needs no quotes: it begins like a name and no YAML scalar of another type reads like it."""
    words = {"null", "true", "false", "nan", "inf", "yes", "no", "on", "off"}
    return bool(re.fullmatch(r"[A-Za-z_][\w./-]*", value)) and value.lower() not in words
