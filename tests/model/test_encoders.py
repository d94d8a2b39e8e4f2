"""Laws of the encoder: all of its own document is seen and nothing else, whatever tells the order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model import frame as frames
from groundup.model.norm import BatchNorm

Build = Callable[..., Any]
Probe = Callable[..., Tensor]

BERT: dict[str, Any] = {
    "positions": "learned",
    "norm": "layer",
    "norm_place": "post",
    "gain": True,
    "bias": True,
    "qk_norm": False,
    "activation": "gelu",
    "segments": 2,
    "tied": True,
    "head_bias": True,
    "head_transform": True,
    "init": "gaussian",
}
BATCH: dict[str, Any] = {"norm": "batch", "qk_norm": False, "gain": True, "bias": True, "init": "gpt2"}
ENCODERS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "learned": {"positions": "learned", "kv_heads": 2},
    "sinusoidal": {"positions": "sinusoidal"},
    "alibi": {"positions": "alibi", "kv_heads": 1},
    "transformer_xl": {"positions": "transformer_xl", "kv_heads": 2},
    "t5": {"positions": "t5", "buckets": 8, "farthest": 12, "scaled_scores": False, "init": "fan_in"},
    "none": {"positions": "none"},
    "bert": BERT,
    "unnormed": {
        "norm": "none",
        "qk_norm": False,
        "embedding_norm": False,
        "activation": "relu",
        "bias": True,
        "init": "t_fixup",
    },
    "sparse": {"experts": 3, "experts_every": 2, "init": "gpt2"},
    "parallel": {"parallel": "one_norm", "value_embeddings": True, "mixing": True},
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of one of several encoders."""
    return {"kind": "encoder", **ENCODERS[request.param]}


def draw(rows: int = 2, length: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


DOCUMENTS = torch.tensor([[0] * 5 + [1] * 1 + [2] * 10, [0] * 16])
PLACES = torch.tensor([[*range(5), 0, *range(10)], [*range(16)]])


def test_every_position_sees_all_of_its_document_and_none_of_another(
    build: Build, encoder: dict[str, Any], by_embedding: Probe
) -> None:
    net = build(**encoder)
    for position in (0, 7, 15):
        assert (by_embedding(net, draw(), position) > 0).all()
    for position, first, last in ((2, 0, 5), (5, 5, 6), (8, 6, 16), (15, 6, 16)):
        sizes = by_embedding(net, draw(), position, documents_BT=DOCUMENTS, positions_BT=PLACES)
        assert (sizes[0, first:last] > 0).all()
        assert (sizes[0, :first] == 0).all() and (sizes[0, last:] == 0).all()
        assert (sizes[1] > 0).all()


def test_documents_packed_into_a_window_are_as_if_run_alone(build: Build, encoder: dict[str, Any]) -> None:
    net, tokens = build(**encoder), draw()
    packed = net(tokens, documents_BT=DOCUMENTS, positions_BT=PLACES)
    for row, document in ((0, 0), (0, 1), (0, 2), (1, 0)):
        chosen = DOCUMENTS[row] == document
        alone = net(tokens[row : row + 1, chosen])[0]
        torch.testing.assert_close(packed[row, chosen], alone, rtol=1e-9, atol=1e-9)


def test_one_document_is_no_mask_at_all(build: Build, encoder: dict[str, Any]) -> None:
    net, tokens = build(**encoder), draw()
    masked = net(tokens, documents_BT=torch.zeros_like(tokens))
    torch.testing.assert_close(masked, net(tokens), rtol=1e-9, atol=1e-9)


def test_likelihoods_stand_where_their_targets_do(build: Build, encoder: dict[str, Any]) -> None:
    net, tokens, targets = build(**encoder), draw(), draw(seed=1)
    targets[0, [1, 2, 3, 9]] = -100
    targets[1, 4:] = -100
    nll, log_z = net(tokens, targets, with_log_z=True)
    logits = net(tokens)
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 16)
    torch.testing.assert_close(nll, expected, rtol=1e-9, atol=1e-9)
    has = targets >= 0
    assert (nll[~has] == 0).all() and (log_z[~has] == 0).all()
    torch.testing.assert_close(log_z[has], logits.logsumexp(dim=-1)[has], rtol=1e-9, atol=1e-9)


def test_a_row_without_targets_costs_nothing_and_breaks_nothing(build: Build) -> None:
    net, targets = build(kind="encoder", **BERT), torch.full((2, 16), -100)
    assert (net(draw(), targets) == 0).all()
    targets[1, 3] = 7
    assert ((net(draw(), targets) != 0) == (targets == 7)).all()


@torch.no_grad()
def test_the_head_of_a_masked_language_model_is_berts(build: Build) -> None:
    """Devlin et al. 2019, in its code: a linear map, GELU and a norm, then the embedding's matrix and a bias."""
    net, tokens = build(kind="encoder", **BERT), draw()
    w, stream = net.state_dict(), net.stream(tokens)
    mapped = stream @ w["head.transform.weight"].T + w["head.transform.bias"]
    mapped = mapped * (1 + torch.erf(mapped / 2**0.5)) / 2
    centred = mapped - mapped.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * w["head.transform_norm.weight"] + w["head.transform_norm.bias"]
    expected = normed @ w["trunk.embedding.weight"].T + w["head.bias"]
    torch.testing.assert_close(net(tokens), expected, rtol=1e-9, atol=1e-9)


def test_segments_are_told_apart_and_the_first_is_meant_where_none_is_named(build: Build) -> None:
    net, tokens = build(kind="encoder", **BERT), draw()
    first = torch.zeros_like(tokens)
    assert torch.equal(net(tokens), net(tokens, segments_BT=first))
    assert not torch.allclose(net(tokens), net(tokens, segments_BT=first + (torch.arange(16) > 8)))


def test_bf16_autocast_stays_near_fp32(build: Build, encoder: dict[str, Any]) -> None:
    net = build(torch.float32, **encoder)
    tokens, targets = draw(), draw(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(tokens, targets)
    whole = net(tokens, targets)
    assert half.dtype == torch.float32
    assert (half - whole).norm() < 0.03 * whole.norm()


def test_every_parameter_gets_a_gradient(build: Build, encoder: dict[str, Any]) -> None:
    net = build(torch.float32, **encoder)
    segments = {"segments_BT": draw(seed=2) % 2} if encoder.get("segments") else {}
    with torch.autocast("cpu", torch.bfloat16):
        net(draw(), draw(seed=1), **segments).mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# Positions


def test_alibi_is_alike_in_both_directions(build: Build, configure: Callable[..., Any]) -> None:
    """Scores fall by a head's slope with the distance, ahead as behind."""
    net, tokens = build(kind="encoder", positions="alibi"), draw()
    torch.testing.assert_close(net(tokens.flip(1)).flip(1), net(tokens), rtol=1e-9, atol=1e-9)
    frame = frames.window(configure(kind="encoder", positions="alibi"), tokens, None, None, torch.float64)
    assert frame.score_bias is not None
    for head, slope in enumerate((1 / 4, 1 / 16, 1 / 64, 1 / 256)):
        for query, key in ((0, 15), (15, 0), (7, 7), (3, 8)):
            assert float(frame.score_bias[0, head, query, key]) == -slope * abs(query - key)


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "transformer_xl", "t5"])
def test_other_positions_tell_one_direction_from_the_other(build: Build, positions: str) -> None:
    net, tokens = build(kind="encoder", positions=positions, init="gpt2"), draw()
    assert (net(tokens.flip(1)).flip(1) - net(tokens)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("late", [0, 1])
def test_relative_positions_are_those_of_xlnet_as_transformers_has_it(build: Build, late: int) -> None:
    """The same weights in both; or distances off by one, which is seen."""
    xlnet = pytest.importorskip("transformers.models.xlnet.modeling_xlnet", reason="transformers is a second witness")
    settings = pytest.importorskip("transformers").XLNetConfig(
        d_model=32, n_head=4, n_layer=1, d_inner=8, vocab_size=61, dropout=0.0
    )
    net = build(kind="encoder", positions="transformer_xl", qk_norm=False, init="gpt2", width=32, heads=4)
    attention = net.trunk.blocks["0"].attention
    theirs = xlnet.XLNetRelativeAttention(settings).double().eval()
    names = {"q": attention.query, "k": attention.key, "v": attention.value, "r": attention.relative.project}
    for name, linear in names.items():
        getattr(theirs, name).copy_(linear.weight.T.reshape(32, 4, 8))
    theirs.o.copy_(attention.output.weight.reshape(32, 4, 8))
    theirs.r_w_bias.copy_(attention.relative.content_bias.view(4, 8))
    theirs.r_r_bias.copy_(attention.relative.position_bias.view(4, 8))
    theirs.layer_norm.reset_parameters()
    stream, length = torch.randn(2, 16, 32, dtype=torch.float64), 16
    angles = torch.arange(length + late, late - length, -1.0, dtype=torch.float64)[:, None] / 10_000 ** (
        torch.arange(0, 32, 2, dtype=torch.float64) / 32
    )
    places = torch.cat((angles.sin(), angles.cos()), dim=-1)[:, None].expand(-1, 2, -1)
    expected = theirs(stream.transpose(0, 1), None, None, None, places, None)[0].transpose(0, 1)
    frame = frames.window(net.config, draw(), None, None, torch.float64)
    found = functional.layer_norm(stream + attention(stream, frame), (32,), eps=settings.layer_norm_eps)
    off = float((found - expected).abs().max())
    assert off > 1e-4 if late else off < 1e-9


# Batch norm


def test_batch_norm_is_torchs_in_training_and_behind_it(configure: Callable[..., Any]) -> None:
    """Ioffe & Szegedy 2015: statistics of a batch, and running ones of which a tenth is new."""
    config = configure(kind="encoder", norm_eps=1e-3, **BATCH)
    ours, theirs = BatchNorm(config, 32).double(), nn.BatchNorm1d(32, eps=1e-3).double()
    with torch.no_grad():
        for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            assert mine is not None
            mine.normal_()
            other.copy_(mine)
    for _ in range(4):
        stream = torch.randn(3, 7, 32, dtype=torch.float64) * 3 + 2
        torch.testing.assert_close(ours(stream), theirs(stream.flatten(0, 1)).view(3, 7, 32), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.mean, theirs.running_mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.variance, theirs.running_var, rtol=1e-9, atol=1e-9)
    assert ours.mean.abs().min() > 0.1
    kept, stream = ours.mean.clone(), torch.randn(3, 7, 32, dtype=torch.float64)
    found, expected = ours.eval()(stream), theirs.eval()(stream.flatten(0, 1)).view(3, 7, 32)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(ours.mean, kept)


@torch.no_grad()
@pytest.mark.parametrize("place", ["pre", "post"])
def test_a_row_depends_on_its_batch_in_training_alone(build: Build, place: str) -> None:
    net, tokens = build(kind="encoder", norm_place=place, **BATCH), draw(4)
    assert not torch.allclose(net.train()(tokens)[:2], net(tokens[:2]))
    net.eval()
    torch.testing.assert_close(net(tokens)[:2], net(tokens[:2]), rtol=1e-9, atol=1e-9)
    before = net(tokens)
    net.train()(tokens)
    assert not torch.allclose(net.eval()(tokens), before)


def test_running_means_go_into_a_checkpoint_and_begin_anew(build: Build) -> None:
    net = build(kind="encoder", **BATCH)
    assert "trunk.blocks.0.attention_norm.mean" in net.state_dict()
    assert (net.state_dict()["trunk.norm.mean"] == 0).all() and (net.state_dict()["trunk.norm.variance"] == 1).all()
