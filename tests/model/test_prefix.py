"""A prefix LM sees all of what is given and nothing ahead behind it, cached or not, packed or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Build = Callable[..., Any]
Probe = Callable[..., Tensor]
PLAIN: dict[str, Any] = {
    "mask": "prefix",
    "positions": "learned",
    "norm": "layer",
    "gain": True,
    "bias": True,
    "embedding_norm": False,
    "qk_norm": False,
    "activation": "gelu",
    "init": "gpt2",
}


def draw(rows: int = 2) -> Tensor:
    return torch.randint(0, 61, (rows, 16), generator=torch.Generator().manual_seed(0))


def given(*lengths: int) -> Tensor:
    return torch.arange(16) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("positions", ["learned", "rotary", "alibi", "transformer_xl"])
def test_what_is_given_is_seen_by_all_and_the_rest_only_from_behind(
    build: Build, positions: str, by_embedding: Probe
) -> None:
    net = build(**{**PLAIN, "positions": positions})
    for position, length in ((0, 6), (3, 6), (5, 6), (9, 6), (4, 1)):
        sizes = by_embedding(net, draw(), position, prefix_BT=given(length, length))
        seen = max(position + 1, length)
        assert (sizes[:, :seen] > 0).all()
        assert (sizes[:, seen:] == 0).all()


def test_a_prefix_ends_with_its_document(build: Build, by_embedding: Probe) -> None:
    documents = torch.tensor([[0] * 5 + [1] * 11])
    sizes = by_embedding(build(**PLAIN), draw(1), 2, prefix_BT=given(9), documents_BT=documents)
    assert (sizes[0, :5] > 0).all()
    assert (sizes[0, 5:] == 0).all()
    sizes = by_embedding(build(**PLAIN), draw(1), 6, prefix_BT=given(9), documents_BT=documents)
    assert (sizes[0, 5:9] > 0).all()
    assert (sizes[0, :5] == 0).all() and (sizes[0, 9:] == 0).all()


@torch.no_grad()
def test_a_cache_reads_a_prompt_as_what_is_given(build: Build) -> None:
    net, tokens, lengths = build(**PLAIN), draw(3), [3, 9, 1]
    whole = net(tokens, prefix_BT=given(*lengths))
    cache = net.new_cache(3)
    padded = torch.stack(
        [torch.where(torch.arange(9) < n, row[:9], 60) for n, row in zip(lengths, tokens, strict=True)]
    )
    decoded = [net.decode(padded, cache, torch.tensor(lengths))]
    for extra in range(7):
        column = torch.stack([row[n + extra] for n, row in zip(lengths, tokens, strict=True)])
        decoded.append(net.decode(column[:, None], cache) if extra % 2 else net.step(column, cache))
    for step, logits in enumerate(decoded):
        for row, n in enumerate(lengths):
            torch.testing.assert_close(logits[row], whole[row, n + step - 1], rtol=0, atol=1e-10)


@torch.no_grad()
def test_likelihoods_take_what_stands_before_the_first_target_as_given(build: Build) -> None:
    net, tokens = build(**PLAIN), draw(2)
    targets = torch.full_like(tokens, -100)
    targets[0, 4:9], targets[1, 11:] = tokens[0, 5:10], tokens[1, :5]
    nll, _ = net.likelihoods(tokens, targets)
    expected = net(tokens, targets, prefix_BT=given(5, 12))[targets >= 0]
    torch.testing.assert_close(nll.double(), expected.double(), rtol=1e-5, atol=1e-5)
    assert not net.reads_branches


def test_a_causal_network_takes_no_prefix(build: Build) -> None:
    with pytest.raises(ValueError, match="build it with mask=prefix"):
        build()(draw(), prefix_BT=given(3, 3))


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (x - x.mean()) / math.sqrt(float(x.var(unbiased=False)) + 1e-5) * weight + bias


@torch.no_grad()
@pytest.mark.parametrize("planted", [0, 1])
def test_it_is_the_network_of_the_paper(build: Build, planted: int) -> None:
    """Dong et al. 2019, UniLM, section 2.1 and figure 1, a position and head at a time; or off by one."""
    net, (tokens,), length = build(**PLAIN), draw(1), 6
    w = net.state_dict()
    stream = [w["trunk.embedding.weight"][token] + w["trunk.positions.weight"][t] for t, token in enumerate(tokens)]
    for layer in range(2):

        def part(name: str, x: Tensor, layer: int = layer) -> Tensor:
            return w[f"trunk.blocks.{layer}.{name}.weight"] @ x + w[f"trunk.blocks.{layer}.{name}.bias"]

        def normed(name: str, x: Tensor, layer: int = layer) -> Tensor:
            return norm(x, w[f"trunk.blocks.{layer}.{name}.weight"], w[f"trunk.blocks.{layer}.{name}.bias"])

        read = [normed("attention_norm", x) for x in stream]
        query, key, value = ([part(f"attention.{name}", x) for x in read] for name in ("query", "key", "value"))
        gathered = [torch.zeros_like(x) for x in stream]
        for head in range(4):
            own = slice(8 * head, 8 * head + 8)
            for t in range(16):
                seen = [s for s in range(16) if s <= t or s < length + planted]
                scores = [math.exp(float(query[t][own] @ key[s][own]) / math.sqrt(8)) for s in seen]
                for s, score in zip(seen, scores, strict=True):
                    gathered[t][own] += score / sum(scores) * value[s][own]
        stream = [x + part("attention.output", g) for x, g in zip(stream, gathered, strict=True)]
        for t, x in enumerate(stream):
            hidden = part("feedforward.up", normed("feedforward_norm", x))
            stream[t] = x + part("feedforward.down", hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)
    ends = [norm(x, w["trunk.norm.weight"], w["trunk.norm.bias"]) for x in stream]
    expected = torch.stack([w["head.weight"] @ x for x in ends])
    off = float((net(tokens[None], prefix_BT=given(length))[0] - expected).abs().max())
    assert off > 1e-6 if planted else off < 1e-9
