"""Laws of the encoder-decoder: what is written sees what is behind it and all of its own document's source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groundup.model.initialise import initialise

Build = Callable[..., Any]

NETS: dict[str, dict[str, Any]] = {
    "rotary": {"kv_heads": 2, "gain": True},
    "learned": {"positions": "learned", "kv_heads": 2},
    "sinusoidal": {"positions": "sinusoidal", "kv_heads": 2},
    "alibi": {"positions": "alibi", "kv_heads": 2},
    "transformer_xl": {"positions": "transformer_xl", "kv_heads": 2},
    "t5": {"positions": "t5", "buckets": 8, "farthest": 12, "kv_heads": 2},
    "none": {"positions": "none", "kv_heads": 2},
    "authors": {
        "positions": "t5",
        "qk_norm": False,
        "scaled_scores": False,
        "gain": True,
        "activation": "relu",
        "embedding_norm": False,
        "tied": True,
        "scaled_logits": True,
        "init": "fan_in",
    },
    "bart": {
        "positions": "learned",
        "norm": "layer",
        "norm_place": "post",
        "gain": True,
        "bias": True,
        "qk_norm": False,
        "activation": "gelu",
        "tied": True,
        "init": "gaussian",
    },
    "unnormed": {
        "norm": "none",
        "qk_norm": False,
        "embedding_norm": False,
        "activation": "relu",
        "bias": True,
        "init": "t_fixup",
    },
    "extras": {"experts": 3, "experts_every": 2, "mixing": True, "value_embeddings": True, "head_transform": True},
}
"""T5 and BART by their authors, and every kind of positions with grouped heads and norms of queries and keys."""


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest, build: Build) -> Any:
    """One of several networks, whose encoder has three layers and whose decoder has two."""
    return build(kind="encoder_decoder", encoder_layers=3, **NETS[request.param])


def draw(rows: int = 2, length: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def by_embeddings(net: Any, tokens: Tensor, source: Tensor, position: int, **rest: Any) -> tuple[Tensor, Tensor]:
    """Sizes of the gradients of one position's logits by the embeddings of the source and of what is written."""
    caught: list[Tensor] = []

    def catch(module: Any, inputs: Any, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[-1]

    hook = net.trunk.embedding.register_forward_hook(catch)
    logits = net(tokens, source_BS=source, **rest)
    hook.remove()
    weights = torch.randn(61, generator=torch.Generator().manual_seed(9), dtype=logits.dtype)
    by_source, by_tokens = torch.autograd.grad((logits[:, position] * weights).sum(), caught)
    return by_source.abs().amax(dim=-1), by_tokens.abs().amax(dim=-1)


def test_no_position_sees_a_later_one_and_each_all_earlier_and_all_of_the_source(net: Any) -> None:
    for position in (0, 6, 15):
        by_source, by_tokens = by_embeddings(net, draw(), draw(length=11, seed=1), position)
        assert (by_tokens[:, position + 1 :] == 0).all()
        assert (by_tokens[:, : position + 1] > 0).all()
        assert (by_source > 0).all()


PACKED = {
    "documents_BT": torch.tensor([[0] * 4 + [1] * 3 + [2] * 9, [0] * 10 + [4] * 6]),
    "positions_BT": torch.tensor([[*range(4), *range(3), *range(9)], [*range(10), *range(6)]]),
    "source_documents_BS": torch.tensor([[0] * 6 + [1] * 2 + [2] * 3 + [9] * 3, [0] * 5 + [4] * 9]),
    "source_positions_BS": torch.tensor([[*range(6), *range(2), *range(3), *range(3)], [*range(5), *range(9)]]),
}
"""Rows of several documents; document 9 of the first is read for nothing."""


def test_only_the_source_of_its_own_document_is_seen(net: Any) -> None:
    tokens, source = draw(), draw(length=14, seed=1)
    for position in (1, 5, 8, 12):
        by_source, by_tokens = by_embeddings(net, tokens, source, position, **PACKED)
        for row in range(2):
            document = PACKED["documents_BT"][row, position]
            assert torch.equal(by_source[row] > 0, PACKED["source_documents_BS"][row] == document)
            own = PACKED["documents_BT"][row] == document
            assert torch.equal(by_tokens[row] > 0, own & (torch.arange(16) <= position))


def test_documents_packed_into_a_row_are_as_if_read_and_written_alone(net: Any) -> None:
    tokens, source = draw(), draw(length=14, seed=1)
    packed = net(tokens, source_BS=source, **PACKED)
    for row, document in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 4)):
        written = PACKED["documents_BT"][row] == document
        read = PACKED["source_documents_BS"][row] == document
        alone = net(tokens[row : row + 1, written], source_BS=source[row : row + 1, read])[0]
        torch.testing.assert_close(packed[row, written], alone, rtol=1e-9, atol=1e-9)


def test_one_document_is_no_mask_at_all(net: Any) -> None:
    tokens, source = draw(), draw(length=11, seed=1)
    masks = {"documents_BT": torch.zeros_like(tokens), "source_documents_BS": torch.zeros_like(source)}
    plain = net(tokens, source_BS=source)
    torch.testing.assert_close(net(tokens, source_BS=source, **masks), plain, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_cached_logits_are_the_uncached_ones_for_rows_of_unequal_length(net: Any) -> None:
    tokens, source, read, prompts = draw(3), draw(3, 12, seed=1), [5, 12, 1], [3, 7, 1]
    cache = net.new_cache(3)
    net.read(torch.where(torch.arange(12) < torch.tensor(read)[:, None], source, 60), cache, torch.tensor(read))
    padded = torch.where(torch.arange(7) < torch.tensor(prompts)[:, None], tokens[:, :7], 60)
    decoded = [net.decode(padded, cache, torch.tensor(prompts))]
    for extra in range(9):
        column = torch.stack([row[n + extra] for n, row in zip(prompts, tokens, strict=True)])
        decoded.append(net.decode(column[:, None], cache) if extra % 2 else net.step(column, cache))
    for row, (n, length) in enumerate(zip(prompts, read, strict=True)):
        whole = net(tokens[row : row + 1], source_BS=source[row : row + 1, :length])[0]
        for step, logits in enumerate(decoded):
            torch.testing.assert_close(logits[row], whole[n + step - 1], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_rows_of_a_cache_can_be_kept_with_their_sources(net: Any) -> None:
    tokens, source = draw(3), draw(3, 12, seed=1)
    cache = net.new_cache(3)
    net.read(source, cache, torch.tensor([4, 12, 9]))
    net.decode(tokens[:, :5], cache)
    cache.keep(torch.tensor([2, 0]))
    logits = net.step(tokens[[2, 0], 5], cache)
    for row, (number, length) in enumerate(((2, 9), (0, 4))):
        whole = net(tokens[number : number + 1, :6], source_BS=source[number : number + 1, :length])
        torch.testing.assert_close(logits[row], whole[0, 5], rtol=1e-9, atol=1e-9)


def test_likelihoods_are_those_of_the_logits(net: Any) -> None:
    tokens, source, targets = draw(), draw(length=11, seed=1), draw(seed=2)
    targets[1, 4:] = -100
    expected = functional.cross_entropy(
        net(tokens, source_BS=source).flatten(0, 1), targets.flatten(), reduction="none"
    ).view(2, 16)
    torch.testing.assert_close(net(tokens, targets, source_BS=source), expected, rtol=1e-9, atol=1e-9)


def test_likelihoods_beside_sources_of_unequal_length_are_those_of_each_alone(net: Any) -> None:
    tokens, source, counts = draw(), draw(length=12, seed=1), [12, 5]
    targets = torch.full_like(tokens, -100)
    targets[0, [2, 9, 10]], targets[1, 4:13] = tokens[0, [3, 10, 11]], tokens[1, 5:14]
    nll, greedy = net.likelihoods(tokens, targets, source, torch.tensor(counts))
    expected = []
    for row, length in enumerate(counts):
        logits = net(tokens[row : row + 1], source_BS=source[row : row + 1, :length])[0].float()
        has = targets[row] >= 0
        expected.append(functional.cross_entropy(logits[has], targets[row, has], reduction="none"))
        assert torch.equal(greedy[:3] if row == 0 else greedy[3:], logits[has].argmax(dim=-1) == targets[row, has])
    torch.testing.assert_close(nll, torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_bf16_autocast_stays_near_fp32_and_every_parameter_gets_a_gradient(build: Build, name: str) -> None:
    net = build(torch.float32, kind="encoder_decoder", encoder_layers=3, **NETS[name])
    if net.config.norm == "none":
        initialise(net, net.config)  # without norms, numbers grow with weights that are drawn anyhow
    tokens, targets, source = draw(), draw(seed=2), draw(length=11, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(tokens, targets, source_BS=source)
    whole = net(tokens, targets, source_BS=source)
    assert half.dtype == torch.float32
    assert (half - whole).norm() < 0.03 * whole.norm()
    half.mean().backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


def test_a_text_that_is_too_long_and_documents_of_one_side_alone_are_refused(build: Build) -> None:
    net = build(kind="encoder_decoder")
    with pytest.raises(ValueError, match="a window of 17 positions"):
        net(draw(), source_BS=draw(length=17))
    with pytest.raises(ValueError, match="a window of 17 positions"):
        net(draw(length=17), source_BS=draw())
    with pytest.raises(ValueError, match="or in neither"):
        net(draw(), source_BS=draw(), documents_BT=torch.zeros(2, 16, dtype=torch.int64))


def test_both_stacks_share_one_embedding_and_each_has_positions_of_its_own(build: Build) -> None:
    for positions, own in (("learned", "positions.weight"), ("t5", "buckets.weight")):
        names = set(build(kind="encoder_decoder", positions=positions).state_dict())
        assert {f"trunk.{own}", f"encoder.{own}", "trunk.embedding.weight"} <= names
        assert "encoder.embedding.weight" not in names
