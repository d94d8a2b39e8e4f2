"""FlexAttention and torch's other kernels are given one definition of a mask, and compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.model import config as _  # noqa: F401  # registers the networks

SHAPE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "context": 48, "vocabulary": 60}
KINDS: dict[str, dict[str, Any]] = {
    "causal": {"kind": "decoder"},
    "prefix": {"kind": "decoder", "mask": "prefix"},
    "sliding": {"kind": "decoder", "sliding_window": 7, "sliding_every": 2},
    "full": {"kind": "encoder"},
    "two stacks": {"kind": "encoder_decoder"},
}


def inputs(kind: str, documents: bool) -> dict[str, Any]:
    """A batch, with documents told apart or not."""
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 60, (2, 48), generator=draw)
    cuts = torch.tensor([[11], [30]])
    of = (torch.arange(48) >= cuts).long()
    shown: dict[str, Any] = {"tokens_BT": tokens}
    if documents:
        shown |= {"documents_BT": of, "positions_BT": torch.arange(48) - of * cuts}
    if kind == "prefix":
        shown["prefix_BT"] = torch.arange(48) < torch.tensor([[5], [20]])
    if kind == "two stacks":
        shown["source_BS"] = tokens.flip(1)
        if documents:
            shown["source_documents_BS"] = of
    return shown


def pair(kind: str) -> tuple[Any, Any]:
    """The same network with either kernel."""
    torch.manual_seed(0)
    plain = from_dict("model", {**SHAPE, **KINDS[kind], "init": "gpt2", "init_std": 0.3}).build()
    flex = from_dict("model", {**SHAPE, **KINDS[kind], "init": "gpt2", "kernel": "flex"}).build()
    flex.load_state_dict(plain.state_dict())
    return plain, flex


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_flex_attention_computes_what_other_kernels_do(kind: str, documents: bool) -> None:
    shown, (plain, flex) = inputs(kind, documents), pair(kind)
    targets = shown["tokens_BT"].roll(-1, 1).masked_fill(torch.arange(48) % 3 == 0, -100)
    found = [net(**shown, targets_BT=targets) for net in (plain, flex)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    if kind in ("causal", "prefix", "sliding") and not documents:
        both = [net.eval().likelihoods(shown["tokens_BT"], targets)[0] for net in (plain, flex)]
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_flex_attention_has_the_gradients_of_other_kernels(kind: str) -> None:
    shown = {name: tensor.cuda() for name, tensor in inputs(kind, documents=True).items()}
    targets, gradients = shown["tokens_BT"].roll(-1, 1), []
    for net in pair(kind):
        net.cuda().compile_()
        net(**shown, targets_BT=targets).sum().backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("other", [{"dropout": 0.1}, {"positions": "alibi"}, {"positions": "t5"}])
def test_what_flex_attention_lacks_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="kernel=flex"):
        from_dict("model", {**SHAPE, "kind": "decoder", "kernel": "flex", **other})
