"""PaLM, Gopher, MT-NLG, GPT-3 and XLNet against the papers, a row, position, head and key at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Weights = dict[str, Tensor]


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    """Ba et al. 2016, equation 3; PaLM's has no bias."""
    mean = sum(x.tolist()) / len(x)
    variance = sum((number - mean) ** 2 for number in x.tolist()) / len(x)
    normed = gain * (x - mean) / math.sqrt(variance + 1e-5)
    return normed if bias is None else normed + bias


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Zhang & Sennrich 2019, equation 4."""
    return gain * x / math.sqrt(sum(number * number for number in x.tolist()) / len(x) + 1e-5)


def silu(x: Tensor) -> Tensor:
    """Swish with beta = 1, of SwiGLU (Shazeer 2020, equation 5)."""
    return torch.stack([number / (1 + torch.exp(-number)) for number in x])


def gelu(x: Tensor) -> Tensor:
    """Hendrycks & Gimpel 2016, section 2, the approximation by tanh, which GPT-2 uses."""
    inner = [math.sqrt(2 / math.pi) * (number + 0.044715 * number**3) for number in x]
    return torch.stack([number / 2 * (1 + torch.tanh(z)) for number, z in zip(x, inner, strict=True)])


def turn(x: Tensor, position: int) -> Tensor:
    """Su et al. 2021, equation 15, with channels i and i + C/2 as a pair."""
    half, turned = len(x) // 2, torch.empty_like(x)
    for i in range(half):
        angle = position * 10_000.0 ** (-2 * i / len(x))
        c, s = math.cos(angle), math.sin(angle)
        turned[i], turned[i + half] = c * x[i] - s * x[i + half], s * x[i] + c * x[i + half]
    return turned


def encode(distance: int, width: int) -> Tensor:
    """R of Dai et al. 2019, section 3.3, as in its code: sines, then cosines (Vaswani et al. 2017, section 3.5)."""
    angles = [distance * 10_000.0 ** (-2 * k / width) for k in range(width // 2)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)


def relative_score(query: Tensor, key: Tensor, place: Tensor, u: Tensor, v: Tensor) -> float:
    """A^rel of Dai et al. 2019, section 3.3, where `key` is W_kE x_j, and `place` is W_kR R_{i-j}."""
    a = query @ key  # content
    b = query @ place  # position, as the content asks for it
    c = u @ key  # bias of content
    d = v @ place  # bias of position
    return float(a + b + c + d)


def average(scores: list[float], values: list[Tensor]) -> Tensor:
    """Vaswani et al. 2017, equation 1: the softmax of scores times values."""
    exponentials = [math.exp(score) for score in scores]
    total = torch.zeros_like(values[0])
    for exponential, value in zip(exponentials, values, strict=True):
        total += exponential / sum(exponentials) * value
    return total


def affine(weights: Weights, name: str, x: Tensor) -> Tensor:
    """W x + b."""
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def feedforward(weights: Weights, at: str, x: Tensor) -> Tensor:
    """Radford et al. 2018, section 4.1: Vaswani et al. 2017, equation 2, with a GELU."""
    return affine(weights, f"{at}.feedforward.down", gelu(affine(weights, f"{at}.feedforward.up", x)))


def read_out(weights: Weights, normed: list[Tensor], untied: bool) -> Tensor:
    """Logits (T, V) by the embedding's matrix (Press & Wolf 2017); `untied` reads another one."""
    matrix = weights["trunk.embedding.weight"]
    return torch.stack([(matrix.flip(0) if untied else matrix) @ x for x in normed])


def palm(
    weights: Weights, tokens: list[int], *, layers: int, heads: int, channels: int, late: int = 0, untied: bool = False
) -> Tensor:
    """Chowdhery et al. 2022, section 2: SwiGLU, parallel layers, multi-query, RoPE, shared embeddings, no biases.

    `late` is added to the positions of keys.
    """
    stream = [weights["trunk.embedding.weight"][token] for token in tokens]
    for layer in range(layers):
        at = f"trunk.blocks.{layer}"
        normed = [layer_norm(x, weights[f"{at}.attention_norm.weight"]) for x in stream]
        keys = [turn(weights[f"{at}.attention.key.weight"] @ x, t + late) for t, x in enumerate(normed)]
        values = [weights[f"{at}.attention.value.weight"] @ x for x in normed]
        for t, x in enumerate(normed):
            queries = weights[f"{at}.attention.query.weight"] @ x
            gathered = torch.zeros_like(queries)
            for head in range(heads):
                own = slice(head * channels, (head + 1) * channels)
                query = turn(queries[own], t)
                scores = [float(query @ keys[s]) / math.sqrt(channels) for s in range(t + 1)]
                gathered[own] = average(scores, values[: t + 1])
            attention = weights[f"{at}.attention.output.weight"] @ gathered
            gate = silu(weights[f"{at}.feedforward.gate.weight"] @ x)
            hidden = gate * (weights[f"{at}.feedforward.up.weight"] @ x)
            stream[t] = stream[t] + weights[f"{at}.feedforward.down.weight"] @ hidden + attention
    last = [layer_norm(x, weights["trunk.norm.weight"]) for x in stream]
    # Section 5, weight initialization: logits are scaled by 1 / sqrt(D), since the embedding is shared.
    return read_out(weights, [x / math.sqrt(len(x)) for x in last], untied)


def gopher(
    weights: Weights, tokens: list[int], *, layers: int, heads: int, channels: int, far: int = 0, untied: bool = False
) -> Tensor:
    """Rae et al. 2021, section 2.1: GPT-2 with RMSNorm and relative positions; Chinchilla is another size of it.

    `far` is added to all distances.
    """
    stream = [weights["trunk.embedding.weight"][token] for token in tokens]
    for layer in range(layers):
        at = f"trunk.blocks.{layer}"
        normed = [rms_norm(x, weights[f"{at}.attention_norm.weight"]) for x in stream]
        keys = [affine(weights, f"{at}.attention.key", x) for x in normed]
        values = [affine(weights, f"{at}.attention.value", x) for x in normed]
        for i, x in enumerate(normed):
            query = affine(weights, f"{at}.attention.query", x)
            gathered = torch.zeros_like(query)
            for head in range(heads):
                own = slice(head * channels, (head + 1) * channels)
                u = weights[f"{at}.attention.relative.content_bias"][own]
                v = weights[f"{at}.attention.relative.position_bias"][own]
                scores = []
                for j in range(i + 1):
                    place = weights[f"{at}.attention.relative.project.weight"][own] @ encode(i - j + far, len(x))
                    scores.append(relative_score(query[own], keys[j][own], place, u, v) / math.sqrt(channels))
                gathered[own] = average(scores, [value[own] for value in values[: i + 1]])
            stream[i] = stream[i] + affine(weights, f"{at}.attention.output", gathered)
        for i, x in enumerate(stream):
            stream[i] = x + feedforward(weights, at, rms_norm(x, weights[f"{at}.feedforward_norm.weight"]))
    return read_out(weights, [rms_norm(x, weights["trunk.norm.weight"]) for x in stream], untied)


def xlnet(
    weights: Weights, tokens: list[int], *, layers: int, heads: int, channels: int, far: int = 0, untied: bool = False
) -> Tensor:
    """Yang et al. 2019, appendix A.2: each position attends to all, by relative positions that know both directions.

    Its second stream of queries is that of its objective. `far` is added to all distances.
    """

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    stream = [weights["trunk.embedding.weight"][token] for token in tokens]
    for layer in range(layers):
        at = f"trunk.blocks.{layer}"
        queries, keys, values = (
            [weights[f"{at}.attention.{part}.weight"] @ x for x in stream] for part in ("query", "key", "value")
        )
        u, v = (weights[f"{at}.attention.relative.{part}"] for part in ("content_bias", "position_bias"))
        project, width = weights[f"{at}.attention.relative.project.weight"], len(stream[0])
        attended = []
        for i, query in enumerate(queries):
            gathered = torch.zeros_like(query)
            for head in range(heads):
                own = slice(head * channels, (head + 1) * channels)
                places = [project[own] @ encode(i - j + far, width) for j in range(len(tokens))]
                scores = [
                    relative_score(query[own], key[own], place, u[own], v[own]) / math.sqrt(channels)
                    for key, place in zip(keys, places, strict=True)
                ]
                gathered[own] = average(scores, [value[own] for value in values])
            attended.append(weights[f"{at}.attention.output.weight"] @ gathered)
        stream = [norm(f"{at}.attention_norm", x + a) for x, a in zip(stream, attended, strict=True)]
        stream = [norm(f"{at}.feedforward_norm", x + feedforward(weights, at, x)) for x in stream]
    return read_out(weights, stream, untied)


def gpt(
    weights: Weights,
    tokens: list[int],
    *,
    layers: int,
    heads: int,
    channels: int,
    window: int | None = None,
    wider: int = 0,
    untied: bool = False,
) -> Tensor:
    """GPT-2 (Radford et al. 2019, section 2.3), as MT-NLG is (Smith et al. 2022, section 3), or with GPT-3's bands.

    With a `window`, layers are dense and locally banded in turn (Brown et al. 2020, section 2.1), the first dense; in
    a band a position sees itself and the `window` - 1 before it, and `wider` more.
    """

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    places = weights["trunk.positions.weight"]
    stream = [weights["trunk.embedding.weight"][token] + places[t] for t, token in enumerate(tokens)]
    for layer in range(layers):
        at = f"trunk.blocks.{layer}"
        normed = [norm(f"{at}.attention_norm", x) for x in stream]
        keys = [affine(weights, f"{at}.attention.key", x) for x in normed]
        values = [affine(weights, f"{at}.attention.value", x) for x in normed]
        for t, x in enumerate(normed):
            dense = window is None or layer % 2 == 0
            seen = [s for s in range(t + 1) if dense or t - s < window + wider]
            query = affine(weights, f"{at}.attention.query", x)
            gathered = torch.zeros_like(query)
            for head in range(heads):
                own = slice(head * channels, (head + 1) * channels)
                scores = [float(query[own] @ keys[s][own]) / math.sqrt(channels) for s in seen]
                gathered[own] = average(scores, [values[s][own] for s in seen])
            stream[t] = stream[t] + affine(weights, f"{at}.attention.output", gathered)
        for t, x in enumerate(stream):
            stream[t] = x + feedforward(weights, at, norm(f"{at}.feedforward_norm", x))
    return read_out(weights, [norm("trunk.norm", x) for x in stream], untied)


SHAPE = {"layers": 2, "width": 24, "heads": 3, "context": 14, "vocabulary": 61}
PLAIN = {"gain": True, "embedding_norm": False, "qk_norm": False, "tied": True, "init": "gpt2"}
GPT2 = {**PLAIN, "norm": "layer", "positions": "learned", "bias": True, "activation": "gelu_tanh"}
PALM = {**PLAIN, "norm": "layer", "positions": "rotary", "bias": False, "activation": "swiglu", "kv_heads": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "palm": {**SHAPE, **PALM, "parallel": "one_norm", "scaled_logits": True, "head_dim": 10, "hidden": 96},
    "gopher": {**SHAPE, **GPT2, "norm": "rms", "positions": "transformer_xl"},
    "mt_nlg": {**SHAPE, **GPT2},
    "gpt3": {**SHAPE, **GPT2, "sliding_window": 4, "sliding_every": 2},
    "xlnet": {
        **SHAPE,
        **GPT2,
        "kind": "encoder",
        "positions": "transformer_xl",
        "norm_place": "post",
        "attention_bias": False,
    },
}
REFERENCES: dict[str, Callable[..., Tensor]] = {
    "palm": palm,
    "gopher": gopher,
    "mt_nlg": gpt,
    "gpt3": gpt,
    "xlnet": xlnet,
}
PLANTS = [
    ("gpt3", "wider"),
    ("palm", "late"),
    ("gopher", "far"),
    ("xlnet", "far"),
    *((family, "untied") for family in OPTIONS),
]


def both(build: Callable[..., Any], family: str, options: dict[str, Any], **plant: int) -> tuple[Tensor, Tensor]:
    """Logits (2, T, V) of a net and of the reference to its weights."""
    net = build(torch.float64, **options)
    tokens_BT = torch.randint(0, options["vocabulary"], (2, options["context"]))
    sizes = {name: options[name] for name in ("layers", "heads")}
    sizes["channels"] = options.get("head_dim") or options["width"] // options["heads"]
    if family == "gpt3":
        sizes["window"] = options["sliding_window"]
    rows = [REFERENCES[family](net.state_dict(), row.tolist(), **sizes, **plant) for row in tokens_BT]
    return net(tokens_BT), torch.stack(rows)


def drawn(family: str, number: int) -> dict[str, Any]:
    """An architecture's options with sizes drawn at random."""
    draw, banded, learned = random.Random(f"{family} {number}"), family == "gpt3", family in ("gpt3", "mt_nlg")
    heads, channels = draw.randint(1, 5), draw.randint(2, 5) * (1 if learned else 2)
    own, context = draw.random() < 0.5, draw.randint(1, 12)
    return {
        **OPTIONS[family],
        "layers": draw.randint(2 if banded else 1, 3),
        "width": 2 * draw.randint(4, 16) if own else heads * channels,
        "heads": heads,
        "head_dim": channels if own else None,
        "hidden": draw.choice([None, 7, 33]),
        "context": context,
        "vocabulary": 2 * draw.randint(1, 40) + 1,
        "sliding_window": draw.randint(1, context) if banded else None,
    }


@pytest.mark.parametrize("family", OPTIONS)
def test_a_network_without_a_twin_elsewhere_is_the_one_in_its_paper(build: Callable[..., Any], family: str) -> None:
    torch.testing.assert_close(*both(build, family, OPTIONS[family]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("family", OPTIONS)
def test_odd_shapes_follow_the_paper_too(build: Callable[..., Any], family: str, number: int) -> None:
    torch.testing.assert_close(*both(build, family, drawn(family, number)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "plant"), PLANTS)
def test_a_planted_mistake_does_not_go_unseen(build: Callable[..., Any], family: str, plant: str) -> None:
    actual, mistaken = both(build, family, OPTIONS[family], **{plant: 1})
    assert (actual - mistaken).abs().max() > 1e-6
