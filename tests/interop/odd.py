"""Odd networks of every family that transformers has, drawn at random, and how theirs and ours are compared.

Tests draw a few of each, `make proof PART=interop` twenty.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.generation.reader import Reader
from groundup.interop.families import family_named
from groundup.interop.folder import export, import_
from groundup.model.load import load, save
from groundup.tokenizer.byte import Bytes

CONTEXT, NEW_TOKENS = 32, 12
NEAR = 1e-4
"""Two likeliest tokens whose logits are nearer than this may change places by rounding."""

UNGATED = ("relu", "gelu", "gelu_tanh", "relu2")
GPT2: dict[str, Any] = {"positions": "learned", "norm": "layer", "gain": True, "bias": True, "init": "gpt2"}
PLAIN = {"embedding_norm": False, "qk_norm": False}

Draw = random.Random


def shape(draw: Draw) -> dict[str, Any]:
    """Sizes: odd ones as often as even ones."""
    heads, channels = draw.choice([1, 2, 3, 5, 6]), draw.choice([2, 4, 6, 10, 16])
    return {
        "layers": draw.randint(1, 3),
        "heads": heads,
        "width": heads * channels,
        "hidden": draw.choice([None, 7, 33, 48]),
        "vocabulary": draw.randint(257, 330),
        "context": CONTEXT,
        "tied": draw.random() < 0.5,
        "norm_eps": draw.choice([1e-5, 1e-6]),
    }


def grouped(draw: Draw, heads: int) -> dict[str, Any]:
    """Key/value heads that divide the heads."""
    return {"kv_heads": draw.choice([None, *(n for n in range(1, heads + 1) if heads % n == 0)])}


def free(draw: Draw, sizes: dict[str, Any]) -> dict[str, Any]:
    """Heads whose channels need not fill the width."""
    own = {"head_dim": draw.choice([4, 6, 10]), "width": sizes["heads"] * draw.choice([3, 4, 7])}
    return own if draw.random() < 0.5 else sizes


def turning(draw: Draw, channels: int) -> dict[str, Any]:
    """An even part of each head's channels."""
    return {"rope_share": draw.choice(range(2, channels + 1, 2)) / channels}


def stretched(draw: Draw) -> dict[str, Any]:
    """Bases and scalings of rotary positions."""
    scalings: list[dict[str, Any]] = [
        {},
        {"rope_scaling": "linear", "rope_factor": 3.0},
        {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_low": 1.0, "rope_high": 4.0, "rope_original": 16},
    ]
    return {"rope_base": draw.choice([100.0, 10_000.0]), **draw.choice(scalings)}


def nanochat(draw: Draw) -> dict[str, Any]:
    sizes = shape(draw)
    softcap, base = draw.choice([None, 15.0]), draw.choice([100.0, 10_000.0])
    return {**sizes, **grouped(draw, sizes["heads"]), "softcap": softcap, "rope_base": base}


def llama(draw: Draw) -> dict[str, Any]:
    sizes = shape(draw)
    parts = {**PLAIN, "gain": True, "activation": draw.choice(["swiglu", "geglu", "geglu_tanh"])}
    biases = {"attention_bias": draw.random() < 0.5, "bias": draw.random() < 0.5}
    return {**sizes, **grouped(draw, sizes["heads"]), **free(draw, sizes), **parts, **biases, **stretched(draw)}


def mistral(draw: Draw) -> dict[str, Any]:
    plain = {**llama(draw), "attention_bias": None, "bias": False}
    if plain.get("head_dim"):
        plain["width"] = draw.choice([15, 24, 34])  # heads need not divide it
    # Not 1: when transformers writes text, its cache for a window of one position is empty.
    return {**plain, "sliding_window": draw.choice([None, 2, 3, 7, 31, 40])}


def mixtral(draw: Draw) -> dict[str, Any]:
    experts = draw.randint(2, 5)
    return {**mistral(draw), "experts": experts, "experts_per_token": draw.randint(1, min(experts, 3))}


def qwen3(draw: Draw) -> dict[str, Any]:
    return {**llama(draw), "qk_norm": True, "bias": False}


def gpt2(draw: Draw) -> dict[str, Any]:
    return {**shape(draw), **PLAIN, **GPT2, "activation": draw.choice(UNGATED)}


def gptj(draw: Draw) -> dict[str, Any]:
    sizes = gpt2(draw)
    turned = turning(draw, sizes["width"] // sizes["heads"])
    other = {"positions": "rotary", "parallel": "one_norm", "attention_bias": False, "head_bias": True}
    return {**sizes, **other, **turned}


def gpt_neox(draw: Draw) -> dict[str, Any]:
    sizes = gpt2(draw)
    turned = {**turning(draw, sizes["width"] // sizes["heads"]), **stretched(draw)}
    parallel, bias = draw.choice(["two_norms", None]), draw.choice([True, False])
    return {**sizes, "positions": "rotary", "parallel": parallel, "attention_bias": bias, **turned}


def gpt_neo(draw: Draw) -> dict[str, Any]:
    sizes = gpt2(draw)
    local = {"sliding_window": draw.choice([1, 3, 8]), "sliding_every": draw.randint(1, sizes["layers"])}
    biases = {"attention_bias": False, "output_bias": True, "scaled_scores": False}
    return {**sizes, **biases, **(local if draw.random() < 0.8 else {})}


def opt(draw: Draw) -> dict[str, Any]:
    bias = draw.choice([True, False])
    norm = {"norm_place": draw.choice(["pre", "post"]), "norm_eps": 1e-5, "gain": bias or draw.choice([True, False])}
    return {**gpt2(draw), **norm, "bias": bias, "embedding_width": draw.choice([None, 9, 23])}


def bloom(draw: Draw) -> dict[str, Any]:
    other = {"positions": "alibi", "embedding_norm": True, "hidden": None, "activation": "gelu_tanh"}
    sizes = gpt2(draw)
    heads = draw.choice([1, 2, 3, 5, 6, 7, 11])
    return {**sizes, **other, "heads": heads, "width": heads * 4}


def bert(draw: Draw) -> dict[str, Any]:
    head = {"head_transform": True, "head_bias": True, "norm_eps": draw.choice([1e-5, 1e-12])}
    sizes = {**gpt2(draw), "vocabulary": draw.randint(259, 330)}
    return {**sizes, "embedding_norm": True, "norm_place": "post", "segments": draw.choice([None, 1, 2, 3]), **head}


def roberta(draw: Draw) -> dict[str, Any]:
    return {**bert(draw), "activation": "gelu"}


def two_stacks(draw: Draw) -> dict[str, Any]:
    return {"encoder_layers": draw.choice([None, 1, 2, 4]), "start": draw.choice([None, 0, 5])}


def t5(draw: Draw) -> dict[str, Any]:
    sizes = shape(draw)
    buckets = draw.choice([4, 7, 12, 32])
    positions = {"positions": "t5", "buckets": buckets, "farthest": buckets // 2 + draw.choice([1, 4, 100])}
    parts = {**PLAIN, "gain": True, "scaled_scores": False, "scaled_logits": sizes["tied"], "init": "gpt2"}
    activation = {"activation": draw.choice([*UNGATED, "swiglu", "geglu_tanh"])}
    return {**sizes, **free(draw, sizes), **positions, **parts, **activation, **two_stacks(draw)}


def mt5(draw: Draw) -> dict[str, Any]:
    return {**t5(draw), "tied": False, "scaled_logits": False}


def bart(draw: Draw) -> dict[str, Any]:
    parts = {"embedding_norm": True, "norm_place": "post", "norm_eps": 1e-5, "scaled_embedding": draw.random() < 0.5}
    return {**gpt2(draw), **parts, "head_bias": draw.random() < 0.5, **two_stacks(draw)}


def mbart(draw: Draw) -> dict[str, Any]:
    return {**bart(draw), "norm_place": "pre"}


DRAWN: dict[str, Callable[[Draw], dict[str, Any]]] = {
    "nanochat": nanochat,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "qwen3": qwen3,
    "gpt2": gpt2,
    "gptj": gptj,
    "gpt_neox": gpt_neox,
    "gpt_neo": gpt_neo,
    "opt": opt,
    "bloom": bloom,
    "bert": bert,
    "roberta": roberta,
    "t5": t5,
    "mt5": mt5,
    "bart": bart,
    "mbart": mbart,
}


def network(model_type: str, number: int, folder: Path) -> Path:
    """The folder of a network of a family, every weight of it random."""
    draw = random.Random(f"{model_type} {number}")
    config: Any = family_named(model_type, "here").kind(**DRAWN[model_type](draw))
    torch.manual_seed(number)
    net = config.build()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.normal_(centre, 0.5 if "embedding" in name or "buckets" in name else 0.2)
    save(net, config, folder)
    Bytes().save(folder / "tokenizer")
    return folder


def text(number: int) -> Tensor:
    """Three rows of random ids."""
    return torch.randint(0, 257, (3, CONTEXT), generator=torch.Generator().manual_seed(number))


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference of logits as a share of the largest logit."""
    assert expected.std() > 0.05, "logits that hardly differ prove nothing"
    return float((found - expected).abs().max() / expected.abs().max())


PLAINLY = {"experts_implementation": "eager"}
"""Their other ways to read experts want sizes that are multiples of 16 bytes."""


def opener(model_type: str) -> Any:
    """The class of transformers that opens networks of a family."""
    import transformers

    return getattr(transformers, family_named(model_type, "here").opened_by)


def there(folder: Path) -> Any:
    """What transformers opens a folder as."""
    return (
        opener(json.loads((folder / "config.json").read_text())["model_type"]).from_pretrained(folder, **PLAINLY).eval()
    )


@torch.no_grad()
def logits_here(net: Any, number: int) -> Tensor:
    """Logits of random ids, which an encoder-decoder writes to others."""
    if net.config.kind != "encoder_decoder":
        return net(text(number))
    return net(text(number)[:, :20], source_BS=text(number + 1))


@torch.no_grad()
def logits_there(net: Any, number: int) -> Tensor:
    """The same of a network of theirs."""
    if not net.config.is_encoder_decoder:
        return net(text(number)).logits
    return net(text(number + 1), decoder_input_ids=text(number)[:, :20]).logits


@torch.no_grad()
def both_ways(model_type: str, number: int, place: Path) -> tuple[float, int]:
    """What a network and its twin in transformers differ by, made here and taken there, and the other way round.

    Returns:
        The largest difference of logits as a share of the largest logit, and how many of these things went wrong: an
        export read back to other weights, an import written again to other weights, a greedy text there that is
        another one here before the first near choice.
    """
    run = network(model_type, number, place / "run")
    export(run, place / "hf", model_type)
    import_(place / "hf", place / "back")
    ours, back = load(run), load(place / "back")
    theirs = there(place / "hf")
    assert theirs.config.model_type == model_type
    off = apart(logits_there(theirs, number), logits_here(ours, number))
    wrong = not _same(ours.state_dict(), back.state_dict())
    wrong += not greedy_agrees(ours, theirs, number)
    torch.manual_seed(number + 1)
    fresh = randomly(theirs.config, ours.config)
    if ours.config.kind != "encoder":
        fresh.generation_config = theirs.generation_config
    fresh.save_pretrained(place / "fresh")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / "fresh" / name).write_bytes((place / "hf" / name).read_bytes())
    import_(place / "fresh", place / "taken")
    taken = load(place / "taken")
    off = max(off, apart(logits_there(fresh, number), logits_here(taken, number)))
    wrong += not greedy_agrees(taken, fresh, number)
    export(place / "taken", place / "again", model_type)
    again = there(place / "again").state_dict()
    return off, int(wrong) + (not _same(fresh.state_dict(), again, 1 + (fresh.config.pad_token_id or 0)))


def randomly(config: Any, ours: Any) -> Any:
    """A network that transformers makes of its config, with random weights."""
    fresh: Any = opener(config.model_type).from_config(config, **PLAINLY).eval()
    if config.model_type in ("t5", "mt5") and not ours.tied:  # its constructor ties whatever the config says
        fresh.lm_head.weight = torch.nn.Parameter(fresh.lm_head.weight.clone())
    for name, parameter in fresh.named_parameters():
        if ours.bias or not name.endswith("norm.bias"):  # Galactica's stay zero
            parameter.add_(torch.randn_like(parameter) * 0.2)
    if getattr(ours, "head_bias", False) and hasattr(fresh, "final_logits_bias"):
        fresh.final_logits_bias.normal_()
    if config.model_type in ("bart", "mbart") and not ours.tied:
        for stack in (fresh.model.encoder, fresh.model.decoder):
            stack.embed_tokens.weight.copy_(fresh.model.shared.weight)
    return fresh


def _same(one: dict[str, Tensor], other: dict[str, Tensor], padding: int = 0) -> bool:
    """Whether tensors are equal bit by bit, but for what nothing reads.

    Args:
        one: tensors.
        other: tensors.
        padding: rows in front of RoBERTa's positions.
    """
    if one.keys() != other.keys():
        return False
    rows = {name: 2 if name.endswith("embed_positions.weight") else 0 for name in one}
    rows |= dict.fromkeys((name for name in one if name.startswith("roberta") and "position" in name), padding)
    rows |= dict.fromkeys(("cls.predictions.bias", "lm_head.bias"), 10**9)
    return all(torch.equal(tensor[rows[name] :], other[name][rows[name] :]) for name, tensor in one.items())


def greedy_agrees(ours: Any, theirs: Any, number: int) -> bool:
    """Whether greedy texts are the same up to the first choice whose two likeliest logits are as good as equal.

    An encoder writes none.
    """
    if ours.config.kind == "encoder":
        return True
    prompts_BT, start = text(number)[:, :9], None
    if ours.config.kind == "encoder_decoder":
        start = 256 if ours.config.start is None else ours.config.start
    generated = theirs.generate(
        prompts_BT,
        attention_mask=torch.ones_like(prompts_BT),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    reader = Reader(ours, prompts_BT.tolist(), NEW_TOKENS, start=start)
    logits_BV, open_rows = reader.start(), set(range(len(prompts_BT)))
    for step in range(prompts_BT.shape[1] if start is None else 1, generated.shape[1]):
        first, second = logits_BV.topk(2).values.T
        chosen = logits_BV.argmax(dim=-1).tolist()
        for row in sorted(open_rows):
            if chosen[row] != generated[row, step]:
                if first[row] - second[row] >= NEAR:
                    return False
                open_rows.remove(row)
            elif chosen[row] == theirs.generation_config.eos_token_id:
                open_rows.remove(row)
        logits_BV = reader.add(chosen)
    return True
