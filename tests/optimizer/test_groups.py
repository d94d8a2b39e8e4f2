"""Which parameters share a group, with which rate and decay, and how an optimizer is written down."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from groundup.core.config import from_dict, to_dict
from groundup.core.errors import ConfigError
from groundup.optimizer import group
from groundup.optimizer.config import SGD, AdamW, Lion, Muon


def groups_of(config, net):
    optimizer = config.build(net.named_parameters())
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {g["name"]: (g, [names[id(p)] for p in g["params"]]) for g in optimizer.param_groups}


def test_matrices_decay_and_vectors_and_embeddings_do_not(made):
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


def test_rates_are_multiplied_by_role(made):
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
    assert group.role(name, nn.Parameter(torch.zeros(shape))) == role


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none(config, made):
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


def test_adamw_is_fused_here(made):
    optimizer = AdamW().build(made().named_parameters())
    assert all(group["fused"] for group in optimizer.param_groups)


# Config


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


def test_an_optimizer_goes_on_from_another_where_the_same_rule_moves_the_parameter():
    kept = {role for role in group.ROLES if group.carries(AdamW(), Muon(), role)}
    assert kept == {role for role in group.ROLES if group.carries(Muon(), AdamW(), role)} == {*group.ROLES} - {"matrix"}
    assert not any(group.carries(Lion(), Muon(), role) for role in group.ROLES)  # both call their state momentum
    assert group.carries(SGD(), SGD(momentum=0.5), None)
    assert not group.carries(SGD(), AdamW(), None)
