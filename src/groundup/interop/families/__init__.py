"""The architectures of transformers that networks here are, each as a table; the rules are those of `family`."""

from __future__ import annotations

from typing import Any

from groundup.core.errors import ConfigError, DataError
from groundup.interop.families.encoders import BERT, ROBERTA
from groundup.interop.families.gpt import GPT2, GPTJ, NEO
from groundup.interop.families.llama import LLAMA, MISTRAL, MIXTRAL, NANOCHAT, QWEN3
from groundup.interop.families.open_models import BLOOM, NEOX, OPT
from groundup.interop.families.two_stacks import BART, MBART, MT5, T5
from groundup.interop.family import Family
from groundup.interop.folding import MULTIPLIERS, REMEDY
from groundup.model.options import Transformer

FAMILIES = (
    *(NANOCHAT, LLAMA, MISTRAL, MIXTRAL, QWEN3, GPT2, GPTJ, NEOX, NEO, OPT, BLOOM),
    *(BERT, ROBERTA),
    *(T5, MT5, BART, MBART),
)


def family_of(config: Transformer, model_type: str | None = None) -> Family:
    """The family that a network is of.

    Args:
        config: the network.
        model_type: of the family that is wanted, where a network is of several; None: the first.

    Raises:
        ConfigError: there is none; told with what keeps it from the nearest one.
    """
    wanted = [family for family in FAMILIES if model_type in (None, family.model_type)]
    if not wanted:
        known = ", ".join(family.model_type for family in FAMILIES)
        raise ConfigError(f"model_type={model_type}", "is not known", f"choose from {known}")
    alike = [family for family in wanted if isinstance(config, family.kind)] or wanted
    nearest = min(alike, key=lambda family: len(family.misfits(config)))
    misfits = nearest.misfits(config)
    if misfits:
        raise ConfigError(
            f"model.{misfits[0]}",
            f"transformers has no such network: nearest is {nearest.architecture}, and {', '.join(misfits)}",
            REMEDY
            if misfits[0].partition("=")[0] in MULTIPLIERS
            else f"export a network that is one of {', '.join(family.architecture for family in alike)}",
        )
    return nearest


def family_named(model_type: Any, where: str) -> Family:
    """The family with a `model_type`.

    Raises:
        DataError: none is known.
    """
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise DataError(where, f"is of model_type {model_type}", f"give a model of one of these: {known}")
