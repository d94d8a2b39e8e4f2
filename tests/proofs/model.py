"""Claims of the architectures: what they learn on real text is more than which token follows which."""

from __future__ import annotations

import math
import sys

from learned import AT_ONCE, bits, place, trained  # noqa: F401  # run.py reads the first

TOKENS = 614_400

KINDS = {
    "gopher": ["model.positions=transformer_xl"],
    "bloom": ["model.positions=alibi"],
    "mistral": ["model.sliding_window=64", "model.activation=swiglu", "model.gain=true"],
    "palm": ["model.parallel=one_norm", "model.kv_heads=1", "model.activation=swiglu"],
    "mixtral": ["model.experts=4", "model.activation=swiglu", "model.hidden=256"],
}
"""Overrides of the default run."""


DEEP = ["model=encoder_decoder", "model.layers=12", "model.width=64", "model.heads=4", "model.hidden=256"]
DEEP += ["model.positions=sinusoidal", "model.scaled_embedding=true", "model.activation=relu", "objective=denoise"]
DEEP += ["model.qk_norm=false", "model.embedding_norm=false", "model.dropout=0.0", "data.context=64"]
DEEP += [
    "data.micro_batch=64",
    "optimizer=adamw",
    "optimizer.rate=1e-3",
    "schedule=linear",
    "schedule.warmup_steps=0",
]
BEGINNINGS = {
    "t_fixup": ["model.norm=none", "model.init=t_fixup"],
    "post_norm": [
        "model.norm=layer",
        "model.norm_place=post",
        "model.gain=true",
        "model.bias=true",
        "model.init=fan_in",
    ],
}
"""Twelve layers each way without warm-up (Huang et al. 2020), and how they begin."""
SEEDS, DEEP_TOKENS = range(5), 1_228_800


def worst_beside_a_bigram() -> tuple[float, int]:
    """Of several architectures, each trained for 0.6M tokens: the largest loss as a share of the bigram's."""
    shares = {}
    for kind, overrides in KINDS.items():
        run = trained(kind, place(), [f"tokens={TOKENS}", *overrides])
        assert run is not None, kind
        bigram, own = bits(run)
        shares[kind] = own / bigram
        print(f"{kind}: {own:.3f} nats a token, bigram {bigram:.3f}", file=sys.stderr)
    assert not any(math.isnan(share) for share in shares.values())
    return max(shares.values()), len(shares)


def below_the_bigram(beginning: str) -> tuple[float, int]:
    """How many of five seeds of a deep encoder-decoder, which begins so, end below the bigram of their tokens."""
    below = 0
    for seed in SEEDS:
        overrides = [f"tokens={DEEP_TOKENS}", f"seed={seed}", *DEEP, *BEGINNINGS[beginning]]
        run = trained(f"{beginning}-{seed}", place("bytes"), overrides)
        bigram, own = (math.nan, math.nan) if run is None else bits(run)
        below += own < bigram
        print(f"{beginning}, seed {seed}: {own:.3f} nats a byte, bigram {bigram:.3f}", file=sys.stderr)
    return below, len(SEEDS)


def t_fixup_below_the_bigram() -> tuple[float, int]:
    """T-Fixup's network without norms."""
    return below_the_bigram("t_fixup")


def post_norm_below_the_bigram() -> tuple[float, int]:
    """The same with norms behind the sums."""
    return below_the_bigram("post_norm")
