"""The default decoder against one written again from the papers' equations, a row, position and head at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


def rms(x: Tensor) -> Tensor:
    """Zhang & Sennrich 2019, equation 4, without gain."""
    return x / math.sqrt(float(x @ x) / len(x) + 1e-5)


def turn(x: Tensor, position: int) -> Tensor:
    """Su et al. 2021, equation 15, with channels i and i + C/2 as a pair."""
    half, turned = len(x) // 2, torch.empty_like(x)
    for i in range(half):
        angle = position * 10_000.0 ** (-2 * i / len(x))
        c, s = math.cos(angle), math.sin(angle)
        turned[i], turned[i + half] = c * x[i] - s * x[i + half], s * x[i] + c * x[i + half]
    return turned


def reference(weights: dict[str, Tensor], tokens_BT: Tensor, *, layers: int, heads: int, groups: int) -> Tensor:
    """Logits (B, T, V) in float64."""
    rows = [_row(weights, tokens.tolist(), layers, heads, groups) for tokens in tokens_BT]
    return torch.stack(rows)


def _row(weights: dict[str, Tensor], tokens: list[int], layers: int, heads: int, groups: int) -> Tensor:
    stream = [rms(weights["trunk.embedding.weight"][token]) for token in tokens]
    channels = len(stream[0]) // heads
    for layer in range(layers):
        part = {n: weights[f"trunk.blocks.{layer}.{n}.weight"] for n in PARTS}
        normed = [rms(x) for x in stream]
        gathered = [torch.zeros_like(x) for x in stream]
        for head in range(heads):
            own, shared = slice(head * channels, (head + 1) * channels), head * groups // heads
            shared_channels = slice(shared * channels, (shared + 1) * channels)
            queries = [turn(rms((part["attention.query"] @ x)[own]), t) for t, x in enumerate(normed)]
            keys = [turn(rms((part["attention.key"] @ x)[shared_channels]), t) for t, x in enumerate(normed)]
            values = [(part["attention.value"] @ x)[shared_channels] for x in normed]
            for t, query in enumerate(queries):
                scores = [math.exp(float(query @ keys[s]) / math.sqrt(channels)) for s in range(t + 1)]
                for s in range(t + 1):
                    gathered[t][own] += scores[s] / sum(scores) * values[s]
        stream = [x + part["attention.output"] @ g for x, g in zip(stream, gathered, strict=True)]
        for t, x in enumerate(stream):
            hidden = part["feedforward.up"] @ rms(x)
            stream[t] = x + part["feedforward.down"] @ torch.where(hidden > 0, hidden * hidden, 0.0)
    return torch.stack([weights["head.weight"] @ rms(x) for x in stream])


PARTS = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.up",
    "feedforward.down",
)


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_default_decoder_is_the_one_in_the_papers(
    build: Callable[..., Any], kv_heads: int | None, dtype: torch.dtype
) -> None:
    net, tokens = build(dtype, kv_heads=kv_heads), torch.randint(0, 61, (2, 16))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    weights = {name: tensor.double() for name, tensor in net.state_dict().items()}
    expected = reference(weights, tokens, layers=2, heads=4, groups=kv_heads or 4)
    torch.testing.assert_close(net(tokens).double(), expected, rtol=tolerance, atol=tolerance)
