"""Each optimizer against an independent statement of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from groundup.optimizer.config import SGD, Adafactor, AdamW, Lion, Muon
from groundup.optimizer.orthogonal import orthogonalise


def gradients(shape, steps=6, seed=3):
    return np.random.default_rng(seed).normal(size=(steps, *shape))


def run(config, name, start, grads):
    """The parameter after steps with given gradients, under a moving rate."""
    parameter = nn.Parameter(torch.tensor(start))
    optimizer = config.build([(name, parameter)])
    for step, gradient in enumerate(grads):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1 - 0.1 * step)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach().numpy()


# Parity with the equations


def test_adamw_follows_its_equations():
    grads, start = gradients((4, 3)), np.random.default_rng(0).normal(size=(4, 3))
    w, m, v = start.copy(), 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        lr = 0.01 * (1 - 0.1 * (t - 1))
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        w = w - lr * 0.1 * w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    np.testing.assert_allclose(run(AdamW(rate=0.01), "blocks.0.up", start, grads), w, rtol=1e-12)


def test_lion_follows_its_equations():
    grads, start = gradients((4, 3)), np.random.default_rng(0).normal(size=(4, 3))
    w, m = start.copy(), 0.0
    for t, g in enumerate(grads):
        lr = 0.01 * (1 - 0.1 * t)
        w = w - lr * (np.sign(0.9 * m + 0.1 * g) + 0.3 * w)
        m = 0.99 * m + 0.01 * g
    np.testing.assert_allclose(run(Lion(rate=0.01), "blocks.0.up", start, grads), w, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_equations(nesterov):
    grads, start = gradients((4, 3)), np.random.default_rng(0).normal(size=(4, 3))
    w, m = start.copy(), 0.0
    for t, g in enumerate(grads):
        lr, g = 0.01 * (1 - 0.1 * t), g + 0.2 * w
        m = 0.9 * m + g
        w = w - lr * (g + 0.9 * m if nesterov else m)
    config = SGD(rate=0.01, weight_decay=0.2, nesterov=nesterov)
    np.testing.assert_allclose(run(config, "blocks.0.up", start, grads), w, rtol=1e-12)


def test_adafactor_follows_its_equations():
    grads, start = gradients((4, 3)), np.random.default_rng(0).normal(size=(4, 3))
    w, rows, columns, eps = start.copy(), np.zeros((4, 1)), np.zeros((1, 3)), np.finfo(np.float64).eps
    for t, g in enumerate(grads, start=1):
        beta = t**-0.8  # the share of the new
        rows = rows + beta * ((g * g).mean(1, keepdims=True) - rows)
        columns = columns + beta * ((g * g).mean(0, keepdims=True) - columns)
        update = g / np.sqrt(np.maximum(rows * columns / max(rows.mean(), eps), eps * eps))
        update = update / max(1.0, np.sqrt((update**2).mean()))
        relative = min(0.05 * (1 - 0.1 * (t - 1)), 1 / np.sqrt(t))
        w = w - max(1e-3, np.sqrt((w * w).mean())) * relative * update
    np.testing.assert_allclose(run(Adafactor(rate=0.05), "blocks.0.up", start, grads), w, rtol=1e-10)


def newton_schulz(matrix):
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (9, 4)])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("cautious", [False, True])
def test_muon_follows_its_equations(shape, nesterov, cautious):
    grads, start = gradients(shape), np.random.default_rng(0).normal(size=shape)
    w, m = start.copy(), 0.0
    for t, g in enumerate(grads):
        lr = 0.02 * (1 - 0.1 * t)
        m = 0.95 * m + 0.05 * g
        update = newton_schulz(0.05 * g + 0.95 * m if nesterov else m)
        decayed = (update * w > 0) if cautious else 1.0
        w = w - lr * 0.3 * decayed * w - lr * max(1, shape[0] / shape[1]) ** 0.5 * update
    config = Muon(rate=0.02, weight_decay=0.3, nesterov=nesterov, cautious=cautious)
    np.testing.assert_allclose(run(config, "blocks.0.up", start, grads), w, rtol=1e-9)


def test_muon_agrees_with_torchs_own_to_the_precision_of_bf16():
    start = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon(rate=0.02, weight_decay=0.1, precision="bf16").build([("blocks.0.up", ours)])
    two = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95)
    for gradient in gradients((24, 16)):
        ours.grad = theirs.grad = torch.tensor(gradient, dtype=torch.float32)
        one.step()
        two.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_muon_moves_what_is_no_matrix_exactly_as_adamw(made):
    one, two = made(), made()
    muon = Muon(adamw_rate=0.01, weight_decay=0.0, eps=1e-8).build(one.named_parameters())
    adamw = AdamW(rate=0.01, weight_decay=0.0).build(two.named_parameters())
    for step in range(4):
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            a.grad = torch.randn(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        muon.step()
        adamw.step()
    others = dict(two.named_parameters())
    for name, parameter in one.named_parameters():
        matrix = "blocks" in name and parameter.ndim == 2
        assert torch.equal(parameter, others[name]) != matrix, name


def test_stacking_matrices_changes_none_of_them():
    shapes = [(6, 12), (12, 6), (6, 6), (6, 12), (8, 6), (6, 6)]
    grads = [gradients(shape, steps=3, seed=n) for n, shape in enumerate(shapes)]
    alone = [run(Muon(), "blocks.0.w", np.ones(shape), g) for shape, g in zip(shapes, grads, strict=True)]
    together = [nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in shapes]
    optimizer = Muon().build([(f"blocks.{n}.w", parameter) for n, parameter in enumerate(together)])
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1 - 0.1 * step)
        for parameter, g in zip(together, grads, strict=True):
            parameter.grad = torch.tensor(g[step])
        optimizer.step()
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.detach().numpy(), one, rtol=1e-12)


# Orthogonality


@pytest.mark.parametrize("polynomial", ["jordan", "polar"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_end_near_one_and_singular_vectors_stay(polynomial, dtype):
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(3, 48, 48, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(3, 160, 48, generator=generator))[0]
    spectrum = torch.logspace(0, -1.3, 48)
    matrices = (u * spectrum) @ v.mT
    result = orthogonalise(matrices.to(dtype), polynomial).float()
    along = torch.einsum("nri,nrc,nci->ni", u, result, v)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (values.mean() - 1).abs() < 0.15
    torch.testing.assert_close(along.sort(descending=True)[0], values, atol=0.05, rtol=0)


def test_a_zero_gradient_moves_no_matrix():
    parameter = nn.Parameter(torch.ones(4, 6))
    optimizer = Muon(weight_decay=0.0).build([("blocks.0.up", parameter)])
    parameter.grad = torch.zeros(4, 6)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(4, 6))


# L1


def test_l1_is_a_soft_threshold_after_the_step():
    start, grads = np.random.default_rng(0).normal(size=(4, 3)), gradients((4, 3), steps=1)
    plain = run(SGD(rate=0.1), "blocks.0.up", start, grads)
    sparse = run(SGD(rate=0.1, l1=2.0), "blocks.0.up", start, grads)
    np.testing.assert_allclose(sparse, np.sign(plain) * np.maximum(np.abs(plain) - 0.2, 0), rtol=1e-12)
    assert 0 < (sparse == 0).sum() < sparse.size


def test_l1_leaves_vectors_and_parameters_without_a_gradient_alone():
    vector, idle = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 3))
    optimizer = AdamW(l1=1.0).build([("blocks.0.bias", vector), ("blocks.0.up", idle)])
    vector.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(vector, torch.ones(3))
    assert torch.equal(idle, torch.ones(3, 3))
