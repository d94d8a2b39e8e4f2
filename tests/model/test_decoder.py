"""Laws of the decoder: causality, documents, caches, precision, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Build = Callable[..., Any]
Probe = Callable[..., Tensor]
OPTIONS = [
    {"positions": positions, "norm": norm, "qk_norm": qk_norm, "shift": shift}
    for positions in ("rotary", "learned")
    for norm in ("rms", "layer")
    for qk_norm in (True, False)
    for shift in (True, False)
]


def draw(rows: int = 2, length: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_no_position_depends_on_a_later_one_and_each_on_all_earlier(
    build: Build, options: dict[str, Any], by_embedding: Probe
) -> None:
    net = build(**options)
    for position in (0, 6, 15):
        sizes = by_embedding(net, draw(), position)
        assert (sizes[:, position + 1 :] == 0).all()
        assert (sizes[:, : position + 1] > 0).all()


def test_every_recipe_is_causal(build: Build, recipe: dict[str, Any], by_embedding: Probe) -> None:
    sizes = by_embedding(build(**recipe), draw(), 7)
    assert (sizes[:, 8:] == 0).all()
    assert (sizes[:, :8] > 0).all()


DOCUMENTS = torch.tensor([[0] * 5 + [1] * 1 + [2] * 10, [0] * 16])
PLACES = torch.tensor([[*range(5), 0, *range(10)], [*range(16)]])


def test_documents_packed_into_a_window_are_as_if_run_alone(build: Build, recipe: dict[str, Any]) -> None:
    net, tokens = build(**recipe), draw()
    packed = net(tokens, documents_BT=DOCUMENTS, positions_BT=PLACES)
    for row, document in ((0, 0), (0, 1), (0, 2), (1, 0)):
        chosen = DOCUMENTS[row] == document
        alone = net(tokens[row : row + 1, chosen])[0]
        torch.testing.assert_close(packed[row, chosen], alone, rtol=0, atol=1e-10)


def test_no_gradient_crosses_a_documents_bounds(build: Build, recipe: dict[str, Any], by_embedding: Probe) -> None:
    sizes = by_embedding(build(**recipe), draw(), 8, documents_BT=DOCUMENTS)
    assert (sizes[0, :6] == 0).all()
    assert (sizes[0, 6:9] > 0).all()
    assert (sizes[1, :9] > 0).all()


def test_rotary_positions_need_not_be_reset_at_documents(build: Build) -> None:
    net, tokens = build(), draw()
    reset = net(tokens, documents_BT=DOCUMENTS, positions_BT=PLACES)
    torch.testing.assert_close(net(tokens, documents_BT=DOCUMENTS), reset, rtol=0, atol=1e-10)


def test_one_document_is_no_mask_at_all(build: Build, recipe: dict[str, Any]) -> None:
    net, tokens = build(**recipe), draw()
    masked = net(tokens, documents_BT=torch.zeros_like(tokens))
    torch.testing.assert_close(masked, net(tokens), rtol=0, atol=1e-10)


@torch.no_grad()
def test_cached_logits_are_the_uncached_ones_for_rows_of_unequal_length(build: Build, recipe: dict[str, Any]) -> None:
    net, tokens = build(torch.float32, **recipe), draw(3)
    prompts, context = [3, 9, 1], 16
    cache = net.new_cache(3)
    padded = torch.stack(
        [torch.where(torch.arange(9) < n, row[:9], 60) for n, row in zip(prompts, tokens, strict=True)]
    )
    decoded = [net.decode(padded, cache, torch.tensor(prompts))]
    for extra in range(context - max(prompts)):
        column = torch.stack([row[n + extra] for n, row in zip(prompts, tokens, strict=True)])
        decoded.append(net.decode(column[:, None], cache))
    whole = net(tokens)
    for step, logits in enumerate(decoded):
        for row, n in enumerate(prompts):
            expected = whole[row, n + step - 1]
            torch.testing.assert_close(logits[row], expected, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))
            assert logits[row].argmax() == expected.argmax()


@torch.no_grad()
def test_a_cache_takes_several_tokens_at_a_time_and_rows_can_be_kept_and_replaced(build: Build) -> None:
    net, tokens = build(shift=True), draw(3)
    whole, cache = net(tokens), net.new_cache(3)
    net.decode(tokens[:, :5], cache)
    logits = net.decode(tokens[:, 5:9], cache, torch.tensor([4, 2, 3]))
    torch.testing.assert_close(logits, whole[[0, 1, 2], [8, 6, 7]], rtol=0, atol=1e-10)
    cache.keep(torch.tensor([2, 0]))
    other = net.new_cache(1, length=8)
    net.decode(tokens[1:2, :8], other)
    cache.put(torch.tensor([0]), other)
    logits = net.decode(torch.stack([tokens[1, 8], tokens[0, 9]])[:, None], cache)
    torch.testing.assert_close(logits, whole[[1, 0], [8, 9]], rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_full_cache_and_a_long_window_are_refused(build: Build) -> None:
    net = build()
    cache = net.new_cache(1, length=4)
    net.decode(draw(1, 4), cache)
    with pytest.raises(ValueError, match="a row of 5 tokens where there is room for 4"):
        net.decode(draw(1, 1), cache)
    with pytest.raises(ValueError, match="a window of 17 positions"):
        net(draw(1, 17))


def test_grouped_heads_with_as_many_groups_as_heads_are_multi_head(build: Build) -> None:
    assert torch.equal(build(kv_heads=4)(draw()), build()(draw()))


def test_dropout_is_a_function_of_torchs_seed_and_absent_in_eval_mode(build: Build) -> None:
    net, tokens = build(torch.float32, dropout=0.3).train(), draw()

    def noisy(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return net(tokens, tokens)

    assert torch.equal(noisy(1), noisy(1))
    assert not torch.equal(noisy(1), noisy(2))
    assert torch.equal(net.eval()(tokens, tokens), build(torch.float32)(tokens, tokens))


def test_bf16_autocast_stays_near_fp32(build: Build, recipe: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = build(torch.float32, **recipe)
    tokens, targets = draw(), draw(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(tokens, targets)
    whole = net(tokens, targets)
    assert half.dtype == torch.float32
    assert (half - whole).norm() < 0.03 * whole.norm()


def test_every_parameter_gets_a_gradient_and_nll_stays_in_full_precision(build: Build, recipe: dict[str, Any]) -> None:
    net = build(torch.float32, **recipe)
    with torch.autocast("cpu", torch.bfloat16):
        nll = net(draw(), draw(seed=1))
    nll.mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler gives several about itself
def test_compiling_in_place_changes_neither_names_nor_numbers_and_generation_stays_eager(build: Build) -> None:
    net = build(torch.float32, layers=1, value_embeddings=True, dropout=0.0, positions="transformer_xl")
    tokens, targets = draw(), draw(seed=1)
    names, expected = list(net.state_dict()), net(tokens, targets)
    expected.mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    net.compile_()
    got = net(tokens, targets)
    got.mean().backward()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
    assert list(net.state_dict()) == names
    with torch.no_grad():
        for length in (1, 2, 3):
            compiled_frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            net.decode(tokens[:, :length], net.new_cache(2))
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled_frames
