"""Each optimizer against an independent statement of it, and the laws all of them keep."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from groundup.core.config import from_dict, to_dict
from groundup.core.errors import ConfigError
from groundup.optimizer.config import SGD, Adafactor, AdamW, Lion, Muon

KINDS = {
    "adamw": AdamW(rate=0.01),
    "adamw with l1": AdamW(rate=0.01, l1=0.01),
    "muon": Muon(rate=0.1, adamw_rate=0.01),
    "muon, cautious polar": Muon(rate=0.1, adamw_rate=0.01, cautious=True, polynomial="polar"),
    "muon, plain momentum with l1": Muon(rate=0.1, adamw_rate=0.01, nesterov=False, l1=0.001),
    "sgd": SGD(rate=0.1),
    "sgd, nesterov": SGD(rate=0.1, nesterov=True, weight_decay=0.001),
    "sgd, no momentum, l1": SGD(rate=0.1, momentum=0.0, l1=0.001),
    "adafactor": Adafactor(rate=0.05),
    "lion": Lion(rate=0.03, weight_decay=0.01),
}


class Net(nn.Module):
    """A net with every role of parameter, named as decoders are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(6, 12), "down": nn.Linear(12, 6), "norm": nn.LayerNorm(6)}) for _ in range(2)
        )
        self.merge = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 11, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block["down"](torch.tanh(block["up"](block["norm"](x))))
        return self.head(self.merge(x))


def made(seed=0, dtype=torch.float64) -> Net:
    torch.manual_seed(seed)
    return Net().to(dtype)


def learn(net, optimizer, first, last, factor=lambda _: 1.0):
    for step in range(first, last):
        torch.manual_seed(1000 + step)
        tokens = torch.randint(0, 11, (4, 5))
        nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten()).backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor(step)
        optimizer.step()
        optimizer.zero_grad()
    return net


def snapshot(net, optimizer):
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value).clone()
    return tensors


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


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


def test_muon_moves_what_is_no_matrix_exactly_as_adamw():
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
    from groundup.optimizer.orthogonal import orthogonalise

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


# Groups


def groups_of(config, net):
    optimizer = config.build(net.named_parameters())
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {g["name"]: (g, [names[id(p)] for p in g["params"]]) for g in optimizer.param_groups}


def test_matrices_decay_and_vectors_and_embeddings_do_not():
    found = groups_of(AdamW(weight_decay=0.1), made())
    assert {name: group["weight_decay"] for name, (group, _) in found.items()} == {
        "matrix": 0.1,
        "embedding": 0.0,
        "head": 0.1,
        "other": 0.1,
        "vector": 0.0,
    }
    assert found["matrix"][1] == [f"blocks.{n}.{part}.weight" for n in range(2) for part in ("up", "down")]
    assert found["embedding"][1] == ["embedding.weight"]
    assert found["head"][1] == ["head.weight"]
    assert found["other"][1] == ["merge.weight"]
    assert len(found["vector"][1]) == 8
    assert groups_of(AdamW(decay_embeddings=True), made())["embedding"][0]["weight_decay"] == 0.1


def test_rates_are_multiplied_by_role():
    found = groups_of(Muon(rate=0.02, adamw_rate=0.001, embedding_rate=10, head_rate=2, vector_rate=5), made())
    assert {name: group["peak"] for name, (group, _) in found.items()} == pytest.approx(
        {"matrix": 0.02, "embedding": 0.01, "head": 0.002, "other": 0.001, "vector": 0.005}
    )
    assert all(group["lr"] == group["peak"] for group, _ in found.values())


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("trunk.blocks.0.attention.query.weight", (8, 8), "matrix"),
        ("nets.model.trunk.blocks.0.attention.query.weight", (8, 8), "matrix"),
        ("trunk.blocks.0.attention.query.bias", (8,), "vector"),
        ("trunk.blocks.0.experts", (4, 8, 8), "other"),
        ("trunk.embedding.weight", (8, 8), "embedding"),
        ("trunk.positions.weight", (8, 8), "embedding"),
        ("trunk.values.3.weight", (8, 8), "embedding"),
        ("trunk.blocks.0.relative_embedding", (8, 8), "embedding"),
        ("trunk.blocks.0.values.weight", (8, 8), "matrix"),
        ("transformer.wte.weight", (8, 8), "embedding"),
        ("head.weight", (8, 8), "head"),
        ("lm_head.weight", (8, 8), "head"),
        ("trunk.blocks.0.head.weight", (8, 8), "matrix"),
        ("trunk.shift.gate.weight", (1, 8), "other"),
    ],
)
def test_a_role_follows_from_name_and_dimensions(name, shape, role):
    from groundup.optimizer import group

    assert group.role(name, nn.Parameter(torch.zeros(shape))) == role


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none(config):
    net = made()
    net.blocks[0]["up"].weight.requires_grad_(False)
    members = [id(p) for group in config.build(net.named_parameters()).param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_a_parameter_given_twice_is_refused():
    parameter = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="b and a are one parameter"):
        AdamW().build([("a", parameter), ("b", parameter)])
    with pytest.raises(ValueError, match="two parameters are named a"):
        AdamW().build([("a", parameter), ("a", nn.Parameter(torch.zeros(2)))])
    with pytest.raises(ValueError, match="no parameter is trainable"):
        AdamW().build([("a", nn.Parameter(torch.zeros(2), requires_grad=False))])


def test_adamw_is_fused_here():
    optimizer = AdamW().build(made().named_parameters())
    assert all(group["fused"] for group in optimizer.param_groups)


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


# Laws of all


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_quadratic_is_minimised(config):
    torch.manual_seed(0)
    target = {"blocks.0.up": torch.randn(6, 9), "embedding": torch.randn(5, 4), "bias": torch.randn(7)}
    parameters = {name: nn.Parameter(torch.zeros_like(value) + 0.5) for name, value in target.items()}
    optimizer = config.build(parameters.items())
    steps, losses = 400, []
    for step in range(steps):
        optimizer.zero_grad()
        loss = sum(((parameters[name] - value) ** 2).sum() / 2 for name, value in target.items())
        loss.backward()
        losses.append(loss.item())
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1 - step / steps)
        optimizer.step()
    assert losses[-1] < 0.03 * losses[0]


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_bitwise_the_undisturbed_one(config, dtype):
    whole = made(dtype=dtype)
    optimizer = config.build(whole.named_parameters())
    learn(whole, optimizer, 0, 6)
    undisturbed = snapshot(whole, optimizer)

    half = made(dtype=dtype)
    first = config.build(half.named_parameters())
    learn(half, first, 0, 3)
    weights, state = half.state_dict(), first.state_dict()
    other = made(seed=9, dtype=dtype)
    other.load_state_dict(weights)
    second = config.build(other.named_parameters())
    second.load_state_dict(state)
    assert_same(snapshot(half, first), snapshot(other, second))
    learn(other, second, 3, 6)
    assert_same(undisturbed, snapshot(other, second))


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_state_passes_through_distributed_checkpoints_by_parameter_name(config):
    half = made()
    first = config.build(half.named_parameters())
    learn(half, first, 0, 3)
    saved = get_optimizer_state_dict(half, first)
    assert set(saved["state"]) <= {name for name, _ in half.named_parameters()}
    other = made(seed=9)
    other.load_state_dict(half.state_dict())
    second = config.build(other.named_parameters())
    before = {name: value.clone() for name, value in other.state_dict().items()}
    set_optimizer_state_dict(other, second, saved)
    assert_same(before, other.state_dict())
    assert_same(snapshot(half, first), snapshot(other, second))


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_state_holds_plain_tensors_under_plain_keys(config):
    net = made()
    optimizer = config.build(net.named_parameters())
    learn(net, optimizer, 0, 1)
    for state in optimizer.state.values():
        assert all(type(key) is str and type(value) is torch.Tensor for key, value in state.items())


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_parameter_without_a_gradient_does_not_move_and_gets_no_state(config):
    net = made()
    idle = [net.blocks[0]["up"].weight, net.embedding.weight]
    before = [parameter.clone() for parameter in idle]
    optimizer = config.build(net.named_parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    for parameter in idle:
        parameter.grad = None
    optimizer.step()
    for parameter, was in zip(idle, before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter not in optimizer.state


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_rate_of_zero_moves_nothing(config):
    net = made()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    learn(net, config.build(net.named_parameters()), 0, 2, factor=lambda _: 0.0)
    assert_same(before, net.state_dict())


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_closure_is_called_once_and_its_loss_returned(config):
    net = made()
    optimizer = config.build(net.named_parameters())
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = net(torch.tensor([[1, 2]])).sum()
        loss.backward()
        return loss.detach()

    assert optimizer.step(closure) is not None
    assert calls == [True]


# Config


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_an_optimizer_survives_being_written_down(config):
    assert from_dict("optimizer", to_dict(config)) == config


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (AdamW, {"rate": -1.0}, "rate=-1.0: must be above 0"),
        (AdamW, {"beta2": 1.0}, "beta2=1.0: must be below 1"),
        (SGD, {"nesterov": True, "momentum": 0.0}, "nesterov=true: looks ahead along a momentum of 0; set momentum"),
        (Muon, {"polynomial": "cubic"}, "polynomial=cubic: allowed: jordan, polar"),
        (Lion, {"l1": -0.1}, "l1=-0.1: must be at least 0"),
    ],
)
def test_a_bad_option_is_told_in_one_line(kind, options, message):
    with pytest.raises(ConfigError) as caught:
        kind(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_options_need_no_torch():
    code = "import sys, groundup.optimizer.config; print(sorted({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
