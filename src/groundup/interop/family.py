"""An architecture of transformers that some networks are: how its config and its tensors map; it opens no file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from groundup.core.errors import DataError
from groundup.interop.folding import Factors, folded
from groundup.interop.form import PLAIN, Form
from groundup.model.config import Decoder, EncoderDecoder
from groundup.model.options import Transformer

if TYPE_CHECKING:
    from groundup.interop.theirs import Theirs

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

NULL: dict[str, Callable[[Any], Any]] = {
    "hidden": lambda config: dataclasses.replace(config, hidden=None).feedforward,
    "kv_heads": lambda config: config.heads,
    "head_dim": lambda config: config.width / config.heads,
    "embedding_width": lambda config: config.width,
    "encoder_layers": lambda config: config.layers,
}
"""What null stands for in an option."""

AUTO = {
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModelForMaskedLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
}
"""What opens networks there, by their kinds."""

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
    "segments": None,
    "scaled_logits": False,
    "head_bias": False,
    "head_transform": False,
    "mup_base": None,
    "softcap": None,
    "experts": None,
    "mixing": False,
    "value_embeddings": False,
    "shift": False,
}
"""What most families have."""

Modules = Mapping[tuple[str, ...], "To"]
Reads = Callable[[Mapping[str, Any], str], dict[str, Any]]
Writes = Callable[[Any], dict[str, Any]]


class To(NamedTuple):
    """A module or tensor of theirs, and the form that its tensors have there."""

    name: str
    form: Form = PLAIN


class Link(NamedTuple):
    """One tensor of theirs.

    Attributes:
        theirs: its name.
        ours: the names of our tensors in it.
        form: how it is made of them.
        zeros: its shape, where it is all zeros because there is nothing of it here.
        expert: it is the matrix of this expert alone, of all those in ours.
    """

    theirs: str
    ours: tuple[str, ...]
    form: Form = PLAIN
    zeros: tuple[int, ...] | None = None
    expert: int | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture of transformers.

    Attributes:
        model_type: its name in `config.json`.
        architecture: the class that has a head.
        kind: the class of configs whose networks it has.
        parts: attributes of the networks that are of it, and their values, or functions of the network.
        keys: entries of `config.json` that are attributes of a network.
        defaults: what such an entry means where it is missing.
        fixed: entries that are always so; another value there is another network.
        written: entries that are written and not read.
        activation: the entry that names the activation, and its names there with ours, what comes first being written;
            None: it is none.
        modules: our modules, `{}` standing for the layer, and theirs; several of ours are one of theirs, and one of
            ours is several of theirs where `{expert}` stands for the expert. A name that ends in `.weight` or `.bias`
            is that tensor alone.
        varied: further modules, which depend on the network.
        zeros: our modules that theirs gives a bias of zeros where ours has none.
        blank: tensors of theirs that are zeros because the network has nothing there, and their shapes.
        copies: tensors of theirs that may stand there once more, and which they are.
        copied: they are written where a network is not tied, since transformers then fills nothing in; vectors always.
        prefix: what a file of weights may leave out in front of the names of theirs.
        spelt: ends of names as the first files had them, and as they are now.
        ignored: ends of names of theirs that say nothing about the network.
        sentinels: ids behind the tokenizer's are sentinels; else the first is a mask.
        padded: the family for an id of padding, where it says how many rows stand before the positions.
        reads: options from what `keys` cannot say, given the entries and the file's name.
        writes: entries likewise.
        seen: options that the tensors alone tell, given the network so far.
    """

    model_type: str
    architecture: str
    kind: type[Transformer] = Decoder
    parts: Mapping[str, Any]
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    activation: tuple[str, Mapping[str, str]] | None = None
    modules: Modules
    varied: Callable[[Transformer], Modules] | None = None
    zeros: tuple[str, ...] = ()
    blank: Callable[[Any], Mapping[str, tuple[int, ...]]] | None = None
    copies: Mapping[str, str] = field(default_factory=dict)
    copied: bool = False
    prefix: str = ""
    spelt: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    sentinels: bool = False
    padded: Callable[[int], Family] | None = None
    reads: Reads | None = None
    writes: Writes | None = None
    seen: Callable[[Any, Theirs], dict[str, Any]] | None = None

    def misfits(self, config: Transformer) -> list[str]:
        """The options of a network, as a user would write them, that the family has otherwise."""
        if not isinstance(config, self.kind):
            return [f"kind={config.kind} (not {kind_of(self.kind)})"]
        config, found = self.plain(config)[0], []
        for name, value in self.parts.items():
            wanted = value(config) if callable(value) else value
            if getattr(config, name) != wanted:
                option = OPTIONS.get(name, name)
                found.append(f"{option}={_said(getattr(config, name))} (not {_said(wanted)})")
        if self.activation is not None:
            known = dict.fromkeys(self.activation[1].values())
            if config.activation not in known:
                found.append(f"activation={config.activation} (not {' or '.join(known)})")
        return found

    def plain(self, config: Transformer) -> tuple[Transformer, Factors]:
        """What the network is there, and by what its weights grow that take up multipliers the family does not have."""
        wanted = self.parts["scaled_logits"]
        return folded(config, bool(wanted(config) if callable(wanted) else wanted))

    def describe(self, config: Transformer, end: int, pad: int) -> dict[str, Any]:
        """The content of `config.json`.

        Args:
            config: a closed config of this family.
            end: the id between documents, which also stands before a text, or behind one that is a source.
            pad: the id of padding.
        """
        entries = {theirs: getattr(config, ours) for theirs, ours in self.keys.items()}
        if self.activation is not None:
            key, known = self.activation
            entries[key] = next(name for name, ours in known.items() if ours == config.activation)
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **entries,
            **self.fixed,
            **self.written,
            **({} if self.writes is None else self.writes(config)),
            **ids(config, end, pad),
            "dtype": "float32",
        }

    def config(self, there: Mapping[str, Any], where: str) -> Transformer:
        """The network that a `config.json` of this family describes, as far as it does.

        Raises:
            DataError: it has something that no network here has.
            KeyError, TypeError, ValueError, ArithmeticError: it is damaged.
        """
        for key, known in {"quantization_config": None, **self.fixed}.items():
            if there.get(key, known) != known:
                raise DataError(where, f"{key} is {there[key]}", f"give a model of this family where it is {known}")
        types = {entry.name: str(entry.type) for entry in dataclasses.fields(self.kind)}
        options = {key: value for key, value in self.parts.items() if key in types and not callable(value)}
        options |= {OPTIONS[key]: value for key, value in self.parts.items() if key in OPTIONS and not callable(value)}
        for theirs, ours in self.keys.items():
            value = there.get(theirs, self.defaults[theirs]) if theirs in self.defaults else there[theirs]
            option = OPTIONS.get(ours, ours)
            options[option] = _converted(theirs, value, types[option])
        if self.activation is not None:
            key, names = self.activation
            name = there.get(key, self.defaults.get(key))
            if name not in names:
                known = " or ".join(names)
                raise DataError(where, f"{key} is {name}", f"give a model of this family where it is {known}")
            options["activation"] = names[name]
        if self.reads is not None:
            options |= self.reads(there, where)
        return _with_nulls(self.kind(**options, init="gpt2"))

    def links(self, config: Transformer, shapes: Mapping[str, Sequence[int]]) -> Iterator[Link]:
        """All tensors of theirs but copies.

        Args:
            config: the network.
            shapes: of its tensors by name.
        """
        varied = {} if self.varied is None else self.varied(config)
        for modules, to in {**self.modules, **varied}.items():
            alone = modules[0].endswith((".weight", ".bias"))
            for layer in range(_layers(modules[0], config)):
                for tensor in ("",) if alone else (".weight", ".bias"):
                    ours = tuple(f"{module.format(layer)}{tensor}" for module in modules)
                    theirs = f"{to.name.format(layer, expert='{}')}{tensor}"
                    weight = f"{modules[0].format(layer)}.weight"
                    if ours[0] in shapes and "{}" in theirs:
                        yield from (
                            Link(theirs.format(expert), ours, to.form, expert=expert)
                            for expert in range(config.expert_count)
                        )
                    elif ours[0] in shapes:
                        yield Link(theirs, ours, to.form)
                    elif tensor == ".bias" and modules[0] in self.zeros and weight in shapes:
                        yield Link(theirs, (), zeros=(shapes[weight][0],))
        if self.blank is not None:
            yield from (Link(theirs, (), zeros=shape) for theirs, shape in self.blank(config).items())

    def written_links(self, config: Transformer, shapes: Mapping[str, Sequence[int]]) -> Iterator[Link]:
        """All tensors of theirs that are written."""
        links = {link.theirs: link for link in self.links(config, shapes)}
        yield from links.values()
        if self.copied:
            copies = {copy: whose for copy, whose in self.copies.items() if copy.endswith("bias") or not config.tied}
            yield from (links[whose]._replace(theirs=copy) for copy, whose in copies.items())

    def all_copies(self, config: Transformer) -> dict[str, str]:
        """`copies`, and the head's matrix if it is the embedding's."""
        return {**self.copies, **({self.head: self.embedding} if config.tied else {})}

    def says_nothing(self, theirs: str) -> bool:
        """Whether a tensor of theirs says nothing that the config and other tensors do not say."""
        return theirs.endswith(("rotary_emb.inv_freq", *self.ignored))

    @property
    def opened_by(self) -> str:
        """The class of transformers that opens a folder of it."""
        return AUTO[kind_of(self.kind)]

    @property
    def embedding(self) -> str:
        """The name there of the embedding's matrix."""
        return f"{self.modules[('trunk.embedding',)].name}.weight"

    @property
    def head(self) -> str:
        """The name there of the head's matrix."""
        own = self.modules.get(("head.weight",))
        return own.name if own is not None else f"{self.modules[('head',)].name}.weight"


def kind_of(kind: type[Transformer]) -> str:
    """The name of a class of configs."""
    return str(kind.kind)


def ids(config: Transformer, end: int, pad: int) -> dict[str, Any]:
    """The entries that say what ids are used for."""
    found: dict[str, Any] = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": pad}
    if isinstance(config, EncoderDecoder):
        start = end if config.start is None else config.start
        found["decoder_start_token_id"] = start
    return found


def generation(config: Transformer, end: int, pad: int) -> dict[str, Any]:
    """The content of `generation_config.json`."""
    found = ids(config, end, pad)
    if isinstance(config, EncoderDecoder) and config.encoder.layers < config.layers:
        found["use_cache"] = False  # theirs has room for as many layers as the encoder has
    return found


def _layers(module: str, config: Any) -> int:
    """In how many layers a module stands."""
    if "{}" not in module:
        return 1
    return int(config.encoder.layers if module.startswith("encoder.") else config.layers)


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


def _with_nulls(config: Transformer) -> Transformer:
    """The same network, its options null wherever null says the same."""
    same: dict[str, Any] = {
        option: None for option, meant in NULL.items() if getattr(config, option, None) == meant(config)
    }
    if config.attention_bias == config.bias:
        same["attention_bias"] = None
    if config.output_bias == config.qkv_bias:
        same["output_bias"] = None
    return dataclasses.replace(config, **same)


def _said(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
