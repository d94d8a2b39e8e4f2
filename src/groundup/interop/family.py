"""An architecture of transformers that some networks are: how its config and its tensors map; it opens no file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from groundup.core.errors import DataError
from groundup.interop.form import PLAIN, Form
from groundup.model.config import Decoder

ACTIVATIONS = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
"""Their names of activations, and ours; what comes first is written."""

GATES = {"silu": "swiglu", "gelu": "geglu", "gelu_new": "geglu_tanh", "gelu_pytorch_tanh": "geglu_tanh"}
"""The same of a gate's."""

OPTIONS = {
    "feedforward": "hidden",
    "groups": "kv_heads",
    "channels": "head_dim",
    "embedded": "embedding_width",
    "qkv_bias": "attention_bias",
    "mixed_bias": "output_bias",
}
"""Properties of a config that stand for an option which may be null."""

NULL: dict[str, Callable[[Decoder], Any]] = {
    "hidden": lambda config: dataclasses.replace(config, hidden=None).feedforward,
    "kv_heads": lambda config: config.heads,
    "head_dim": lambda config: config.width / config.heads,
    "embedding_width": lambda config: config.width,
}
"""What null stands for in an option."""

BASE: dict[str, Any] = {
    "mask": "causal",
    "norm_place": "pre",
    "parallel": None,
    "sliding_window": None,
    "sliding_every": 1,
    "scaled_scores": True,
    "embedding_norm": False,
    "embedding_width": None,
    "scaled_embedding": False,
    "scaled_logits": False,
    "head_bias": False,
    "softcap": None,
    "experts": None,
    "mixing": False,
    "value_embeddings": False,
    "shift": False,
}
"""What most families have."""

Reads = Callable[[Mapping[str, Any], str], dict[str, Any]]
Writes = Callable[[Decoder], dict[str, Any]]


class To(NamedTuple):
    """A module of theirs, and the form that its tensors have there."""

    name: str
    form: Form = PLAIN


class Link(NamedTuple):
    """One tensor of theirs.

    Attributes:
        theirs: its name.
        ours: the names of our tensors in it.
        form: how it is made of them.
        zero: it is all zeros, as many as the first of `ours` has rows.
        expert: it is the matrix of this expert alone, of all those in ours.
    """

    theirs: str
    ours: tuple[str, ...]
    form: Form
    zero: bool = False
    expert: int | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture of transformers.

    Attributes:
        model_type: its name in `config.json`.
        architecture: the class that has a head.
        parts: attributes of the networks that are of it, and their values, or functions of the network.
        keys: entries of `config.json` that are attributes of a network.
        defaults: what such an entry means where it is missing.
        fixed: entries that are always so; another value there is another network.
        written: entries that are written and not read.
        activation: the entry that names the activation, and whether it is a gate's; None: it is none.
        modules: our modules, `{}` standing for the layer, and theirs; several of ours are one of theirs, and one of
            ours is several of theirs where `{expert}` stands for the expert.
        zeros: our modules that theirs gives a bias of zeros where ours has none.
        prefix: what a file of weights may leave out in front of the names of theirs.
        ignored: ends of names of theirs that say nothing about the network.
        reads: options from what `keys` cannot say, given the entries and the file's name.
        writes: entries likewise.
    """

    model_type: str
    architecture: str
    parts: Mapping[str, Any]
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    activation: tuple[str, bool] | None = None
    modules: Mapping[tuple[str, ...], To]
    zeros: tuple[str, ...] = ()
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    reads: Reads | None = None
    writes: Writes | None = None

    def misfits(self, config: Decoder) -> list[str]:
        """The options of a network, as a user would write them, that the family has otherwise."""
        found = []
        for name, value in self.parts.items():
            wanted = value(config) if callable(value) else value
            if getattr(config, name) != wanted:
                option = OPTIONS.get(name, name)
                found.append(f"{option}={_said(getattr(config, name))} (not {_said(wanted)})")
        if self.activation is not None and config.gated != self.activation[1]:
            known = dict.fromkeys((GATES if self.activation[1] else ACTIVATIONS).values())
            found.append(f"activation={config.activation} (not {' or '.join(known)})")
        return found

    def describe(self, config: Decoder, end: int) -> dict[str, Any]:
        """The content of `config.json`.

        Args:
            config: a closed config of this family.
            end: the id between documents, which also stands before a text.
        """
        entries = {theirs: getattr(config, ours) for theirs, ours in self.keys.items()}
        if self.activation is not None:
            known = GATES if self.activation[1] else ACTIVATIONS
            entries[self.activation[0]] = next(key for key, ours in known.items() if ours == config.activation)
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **entries,
            **self.fixed,
            **self.written,
            **({} if self.writes is None else self.writes(config)),
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "dtype": "float32",
        }

    def config(self, there: Mapping[str, Any], where: str) -> Decoder:
        """The network that a `config.json` of this family describes.

        Raises:
            DataError: it has something that no network here has.
            KeyError, TypeError, ValueError, ArithmeticError: it is damaged.
        """
        for key, known in {"quantization_config": None, **self.fixed}.items():
            if there.get(key, known) != known:
                raise DataError(where, f"{key} is {there[key]}", f"give a model of this family where it is {known}")
        options = {key: value for key, value in self.parts.items() if key in FIELDS and not callable(value)}
        options |= {OPTIONS[key]: value for key, value in self.parts.items() if key in OPTIONS and not callable(value)}
        for theirs, ours in self.keys.items():
            value = there.get(theirs, self.defaults[theirs]) if theirs in self.defaults else there[theirs]
            option = OPTIONS.get(ours, ours)
            options[option] = _converted(theirs, value, FIELDS[option])
        if self.activation is not None:
            key, gate = self.activation
            name = there.get(key, self.defaults.get(key))
            known = GATES if gate else ACTIVATIONS
            if name not in known:
                raise DataError(
                    where, f"{key} is {name}", f"give a model of this family where it is {' or '.join(known)}"
                )
            options["activation"] = known[name]
        if self.reads is not None:
            options |= self.reads(there, where)
        return _with_nulls(Decoder(**options, init="gpt2"))

    def links(self, config: Decoder, names: Mapping[str, Any]) -> Iterator[Link]:
        """All tensors of theirs.

        Args:
            config: the network.
            names: has the names of its tensors.
        """
        for modules, to in self.modules.items():
            for layer in range(config.layers) if "{}" in modules[0] else (0,):
                for kind in ("weight", "bias"):
                    ours = tuple(f"{module.format(layer)}.{kind}" for module in modules)
                    theirs = f"{to.name.format(layer, expert='{}')}.{kind}"
                    if ours[0] in names and "{}" in theirs:
                        yield from (
                            Link(theirs.format(expert), ours, to.form, expert=expert)
                            for expert in range(config.expert_count)
                        )
                    elif ours[0] in names:
                        yield Link(theirs, ours, to.form)
                    elif kind == "bias" and modules[0] in self.zeros and f"{modules[0].format(layer)}.weight" in names:
                        yield Link(theirs, (f"{modules[0].format(layer)}.weight",), to.form, zero=True)

    def says_nothing(self, theirs: str, config: Decoder) -> bool:
        """Whether a tensor of theirs says nothing that the config and other tensors do not say."""
        return theirs.endswith(("rotary_emb.inv_freq", *self.ignored)) or (theirs == self.head and config.tied)

    @property
    def embedding(self) -> str:
        """The name there of the embedding's matrix."""
        return f"{self.modules[('trunk.embedding',)].name}.weight"

    @property
    def head(self) -> str:
        """The name there of the head's matrix."""
        return f"{self.modules[('head',)].name}.weight"


FIELDS = {entry.name: str(entry.type) for entry in dataclasses.fields(Decoder)}
"""Our options and their types as written."""


def _converted(key: str, value: Any, kind: str) -> Any:
    """An entry as a value of an option's type.

    Raises:
        TypeError, ValueError, ArithmeticError: it is none.
    """
    if value is None and "None" in kind:
        return None
    if kind.startswith("bool"):
        if value not in (True, False):
            raise ValueError(key)
        return bool(value)
    if kind.startswith("float"):
        if not math.isfinite(float(value)):
            raise ValueError(key)
        return float(value)
    return int(value) if kind.startswith("int") else str(value)


def _with_nulls(config: Decoder) -> Decoder:
    """The same network, its options null wherever null says the same."""
    same: dict[str, Any] = {option: None for option, meant in NULL.items() if getattr(config, option) == meant(config)}
    if config.attention_bias == config.bias:
        same["attention_bias"] = None
    if config.output_bias == config.qkv_bias:
        same["output_bias"] = None
    return dataclasses.replace(config, **same)


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
