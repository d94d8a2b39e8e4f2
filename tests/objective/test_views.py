"""What every objective shows of the text: laws that hold for all of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers as hf
import torch

import groundup.objective.config  # noqa: F401  # it registers the group
from groundup.core.bits import OF_TEXT
from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.core.keyed import derive
from groundup.core.progress import Progress
from groundup.data.step import IGNORED, Batch, Head, Parcel, Step
from groundup.data.view import View, view_of
from groundup.model.config import Decoder, Encoder, EncoderDecoder
from groundup.objective.base import Setting
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.huggingface import HuggingFace, byte_characters

BYTES = list(byte_characters().values())
CONTEXT, TOKENIZER = 48, Bytes()
ENCODER, DECODER, BOTH = Encoder(), Decoder(mask="prefix"), EncoderDecoder()
KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "prefix": ({"kind": "prefix"}, DECODER),
    "prefix of two stacks": ({"kind": "prefix"}, BOTH),
    "masked": ({"kind": "masked"}, ENCODER),
    "masked words": ({"kind": "masked", "whole_words": True}, ENCODER),
    "span": ({"kind": "span"}, BOTH),
    "denoise": ({"kind": "denoise"}, BOTH),
    "denoise in order": ({"kind": "denoise", "permute": False}, BOTH),
    "ul2": ({"kind": "ul2"}, BOTH),
}
FILLED = [0, 1, 2, 3, 17, 47, 48, 48]
every_kind = pytest.mark.parametrize("kind", KINDS)


def view(kind: str, seed: int = 1) -> View:
    options, model = KINDS[kind]
    found = view_of(from_dict("objective", options), seed, TOKENIZER, model)
    assert found is not None
    return found


def text(rows: int) -> np.ndarray:
    """Rows of bytes in documents of many lengths, some with one token alone."""
    draw = np.random.default_rng(0)
    tokens = draw.choice([*b"abcde .!?"], (rows, CONTEXT + 1))
    tokens[draw.random(tokens.shape) < 0.08] = TOKENIZER.end
    return tokens.astype(np.uint16)


def shown(view: View, rows: np.ndarray, filled: Any, samples: Any, document_mask: bool = True) -> Step:
    filled, samples = np.asarray(filled), np.asarray(samples)
    targets = int(view.targets(samples, filled).sum())
    end = TOKENIZER.end if document_mask else None
    (step,) = Parcel([Head(0, len(rows), targets, 0)], [0], rows, filled, end, samples, view).unpack()
    return step


def same(one: Batch, other: Batch) -> bool:
    first, second = one.there(), other.there()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@every_kind
@pytest.mark.parametrize("document_mask", [True, False])
def test_the_targets_of_each_sample_are_counted_before(kind: str, document_mask: bool) -> None:
    rows, filled, samples = text(160), np.array(FILLED * 20), np.arange(160) * 7919
    (batch,) = shown(view(kind), rows, filled, samples, document_mask).micro_batches
    counts = (batch.targets_BT != IGNORED).sum(dim=1)
    assert counts.tolist() == view(kind).targets(samples, filled).tolist()
    assert int(counts.min()) == 0 < int(counts.max())


@every_kind
def test_a_sample_is_shown_the_same_beside_others_alone_and_in_a_worker(kind: str) -> None:
    rows, filled, samples = text(16), np.array(FILLED * 2), np.arange(16) + 2**40
    (whole,) = shown(view(kind), rows, filled, samples).micro_batches
    order = np.arange(16)[::-1]
    (turned,) = shown(view(kind), rows[order], filled[order], samples[order]).micro_batches
    assert same(whole, Batch(**{name: tensor.flip(0) for name, tensor in turned.there().items()}))
    for row in range(16):
        (alone,) = shown(view(kind), *(part[row : row + 1] for part in (rows, filled, samples))).micro_batches
        assert same(alone, Batch(**{name: tensor[row : row + 1] for name, tensor in whole.there().items()}))
    parcel = Parcel([Head(0, 16, 0, 0)], [0], rows, filled, TOKENIZER.end, samples, view(kind))
    ((sent,),) = (step.micro_batches for step in pickle.loads(pickle.dumps(parcel)))
    assert same(whole, sent)


@every_kind
def test_another_seed_or_another_sample_shows_something_else(kind: str) -> None:
    rows, filled = np.tile(text(1), (8, 1)), np.full(8, CONTEXT)
    (one,) = shown(view(kind), rows, filled, np.arange(8)).micro_batches
    for seed, samples in ((2, np.arange(8)), (1, np.arange(8) + 8)):
        (other,) = shown(view(kind, seed), rows, filled, samples).micro_batches
        assert not same(one, other)


@every_kind
@pytest.mark.parametrize("document_mask", [True, False])
def test_shapes_depend_on_the_context_alone(kind: str, document_mask: bool) -> None:
    objective, model = from_dict("objective", KINDS[kind][0]), KINDS[kind][1]
    full, short = (
        shown(view(kind), text(8), filled, np.arange(8), document_mask).micro_batches[0].there()
        for filled in ([CONTEXT] * 8, FILLED)
    )
    assert {name: short[name].shape for name in full} == {name: tensor.shape for name, tensor in full.items()}
    source, target = objective.widths(model, CONTEXT)
    assert full["tokens_BT"].shape == (8, target)
    assert (full["source_BS"].shape == (8, source)) if source else ("source_BS" not in full)


@pytest.mark.parametrize("kind", [kind for kind, (_, model) in KINDS.items() if model is BOTH])
@pytest.mark.parametrize("document_mask", [True, False])
def test_every_position_looks_at_a_source_and_none_at_padding(kind: str, document_mask: bool) -> None:
    (batch,) = shown(view(kind), text(80), FILLED * 10, np.arange(80), document_mask).micro_batches
    there = {name: tensor.numpy() for name, tensor in batch.there().items()}
    documents, sources = there["documents_BT"], there["source_documents_BS"]
    assert (documents >= 0).all(), "padding of the source has -1"
    padding = sources == -1
    assert (padding[:, 1:] >= padding[:, :-1]).all(), "it stands at the end"
    assert (np.diff(np.where(padding, 99, sources), axis=1) >= 0).all()
    assert (np.diff(documents, axis=1) >= 0).all()
    for row in range(80):
        assert set(documents[row]) <= set(sources[row])
    for numbers, positions in (
        (documents, there["positions_BT"]),
        (sources, there["source_positions_BS"]),
    ):
        begins = np.ones_like(numbers, dtype=bool)
        begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        assert (positions[begins] == 0).all()
        assert (np.diff(positions, axis=1)[~begins[:, 1:]] == 1).all()


@every_kind
def test_ids_are_those_of_the_tokenizer_and_the_extra_ones(kind: str) -> None:
    (batch,) = shown(view(kind), text(80), FILLED * 10, np.arange(80)).micro_batches
    ids = torch.cat([batch.there()[name].reshape(-1) for name in ("tokens_BT", "source_BS") if name in batch.there()])
    objective = from_dict("objective", KINDS[kind][0])
    assert int(ids.max()) < TOKENIZER.vocabulary + objective.extra_ids
    assert (int(ids.max()) >= TOKENIZER.vocabulary) == (objective.extra_ids > 0)


def test_a_tokenizers_own_ids_can_be_named() -> None:
    masked = from_dict("objective", {"kind": "masked", "mask_id": 7})
    denoise = from_dict("objective", {"kind": "denoise", "mask_id": 8})
    span = from_dict("objective", {"kind": "span", "first_sentinel": 199, "sentinels": 100})
    assert [objective.extra_ids for objective in (masked, denoise, span)] == [0, 0, 0]
    assert masked.view(0, TOKENIZER, ENCODER).mask == 7
    assert denoise.view(0, TOKENIZER, BOTH).mask == 8
    assert span.view(0, TOKENIZER, BOTH).first == 199
    with pytest.raises(ConfigError, match=r"objective\.mask_id=7: is no id of a network with model\.vocabulary=7"):
        masked.check(SimpleNamespace(mask="full", vocabulary=7))
    with pytest.raises(ConfigError, match=r"first_sentinel=98: leaves no room for sentinels=100"):
        from_dict("objective", {"kind": "span", "first_sentinel": 98})


def tokenizer_of(names: list[str]) -> HuggingFace:
    """Bytes, then the end of a document at 256, then pieces of these names."""
    library = hf.Tokenizer(hf.models.BPE(vocab=dict(zip(BYTES, range(256), strict=True)), merges=[]))
    library.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = hf.decoders.ByteLevel()
    library.add_special_tokens(["</s>", *names[::2]])
    library.add_tokens(names[1::2])
    return HuggingFace(library.to_str(), "here")


@pytest.mark.parametrize("kind", ["masked", "denoise", "span", "ul2"])
def test_ids_that_text_is_made_of_stand_for_nothing_hidden(kind: str) -> None:
    """What may be named is just what no text of the tokenizer holds, `end` left out."""
    tokenizer = tokenizer_of(["<a>", "<b>", "<c>", "<d>"])
    assert tokenizer.vocabulary == 261
    option, more = ("mask_id", {}) if kind in ("masked", "denoise") else ("first_sentinel", {"sentinels": 2})
    width, made = more.get("sentinels", 1), set(range(256)) | {tokenizer.end}
    own = {261, 262, 263} if kind == "ul2" else set()
    for first in range(width - 1, 280):
        objective = from_dict("objective", {"kind": kind, option: first, **more})
        if {first - number for number in range(width)} & (made | own):
            with pytest.raises(ConfigError, match=rf"^objective\.{option}={first}: ") as caught:
                objective.check_ids(tokenizer)
            assert "\n" not in str(caught.value)
        else:
            objective.check_ids(tokenizer)
    with pytest.raises(
        ConfigError, match=rf"{option}=65: .*is a piece that text is made of.*; give .*\(257 <a>, 258 <c>,"
    ):
        from_dict("objective", {"kind": kind, option: 65, **more}).check_ids(tokenizer)
    from_dict("objective", {"kind": kind}).check_ids(tokenizer)


def test_the_first_sentinel_is_t5s() -> None:
    tokenizer = SimpleNamespace(vocabulary=32_000, end=1)
    span = from_dict("objective", {"kind": "span"})
    assert span.view(0, tokenizer, BOTH).first == 32_099
    assert span.extra_ids == 100
    ul2 = from_dict("objective", {"kind": "ul2"})
    assert ul2.extra_ids == 103
    assert set(ul2.view(0, tokenizer, BOTH).modes) == {32_100, 32_102}
    assert ul2.view(0, tokenizer, BOTH).last_part == 32_101
    named = from_dict("objective", {"kind": "ul2", "first_sentinel": 31_999})
    assert (named.extra_ids, named.view(0, tokenizer, BOTH).last_part) == (3, 32_001)


@pytest.mark.parametrize(
    ("kind", "model", "says"),
    [
        ("pretrain", DECODER, r"model\.mask=prefix: .*set objective=prefix"),
        ("pretrain", ENCODER, r"model\.mask=full: .*set objective=masked"),
        ("pretrain", BOTH, r"model\.kind=encoder_decoder: .*set objective=span"),
        ("prefix", Decoder(), r"objective=prefix: .*set model\.mask=prefix"),
        ("prefix", ENCODER, r"objective=prefix: .*set model=decoder"),
        ("masked", DECODER, r"objective=masked: .*set model=encoder"),
        ("masked", BOTH, r"objective=masked: .*set model=encoder"),
        ("span", ENCODER, r"objective=span: .*set model=encoder_decoder"),
        ("denoise", Decoder(), r"objective=denoise: .*set model=encoder_decoder"),
        ("ul2", ENCODER, r"objective=ul2: .*set model=encoder_decoder"),
    ],
)
def test_a_network_that_does_not_suit_is_refused_with_what_does(kind: str, model: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        from_dict("objective", {"kind": kind}).check(model)


@every_kind
def test_a_network_that_suits_is_taken(kind: str) -> None:
    options, model = KINDS[kind]
    from_dict("objective", options).check(model)


def test_shares_of_what_is_hidden_are_no_more_than_all() -> None:
    with pytest.raises(ConfigError, match=r"random=0\.3: and masked=0\.8 .*at most 0\.2"):
        from_dict("objective", {"kind": "masked", "random": 0.3})


@every_kind
def test_the_network_it_is_for_learns_from_it(kind: str, tmp_path: Path, one_thread: None) -> None:
    options, model = KINDS[kind]
    objective = from_dict("objective", {**options, "z_loss": 1e-4})
    context = max(objective.widths(model, CONTEXT))
    vocabulary = TOKENIZER.vocabulary + objective.extra_ids
    small = {"layers": 1, "width": 16, "heads": 2, "context": context, "vocabulary": vocabulary, "init": "gpt2"}
    net = type(model)(**{**small, "mask": model.mask})
    setting = Setting(seed=0, first=Progress(), total=Progress(1, 8, 8), folder=tmp_path, tokenizer=TOKENIZER)
    module = objective.build(net, None, None, setting)
    module.configure_model()
    (batch,) = shown(view(kind), text(8), FILLED, np.arange(8)).micro_batches
    loss, metrics = module.loss(module(batch), batch)
    kept = batch.targets_BT >= 0
    assert float(metrics["nll"].detach() / kept.sum()) == pytest.approx(np.log(vocabulary), rel=0.02)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.nets.parameters())
    of_text = kept & (batch.targets_BT < TOKENIZER.end)
    assert int(module._bytes_of(batch.targets_BT, kept)) == int(of_text.sum()), "extra ids stand for no bytes"
    assert module.flops_per_token > 0


@every_kind
def test_figures_are_called_bits_per_byte_only_where_what_is_predicted_goes_on_from_the_text(kind: str) -> None:
    rows = text(8)
    (batch,) = shown(view(kind), rows, [CONTEXT] * 8, np.arange(8)).micro_batches
    predicted = [row[row != IGNORED].tolist() for row in batch.targets_BT]
    goes_on = all(row.tolist()[-len(told) :] == told for row, told in zip(rows, predicted, strict=True))
    assert (from_dict("objective", KINDS[kind][0]).unit == OF_TEXT) == goes_on == kind.startswith("prefix")


def test_draws_of_different_uses_are_different() -> None:
    names = ("split", "masked", "spans", "denoise", "denoiser", "last part")
    assert len({derive(0, name, 5) for name in names}) == len(names)
