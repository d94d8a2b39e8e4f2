"""Fine-tuning: losses and measures are those of others, padding changes nothing, and what is separable is learned."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch.nn import functional

from groundup.core.errors import CheckpointError, ConfigError
from groundup.core.progress import Progress
from groundup.data.config import Examples as Data
from groundup.data.example_opening import Opened
from groundup.data.examples import ExampleWriter
from groundup.data.labelled import HeldOut, Steps, lay
from groundup.model import task_head
from groundup.model.config import Decoder, Encoder, EncoderDecoder
from groundup.model.task import TASKS
from groundup.objective import losses, measures
from groundup.objective.answering import answered, best_spans
from groundup.objective.base import Setting
from groundup.objective.finetune_config import Finetune
from groundup.tokenizer.byte import Bytes

TOKENIZER, CONTEXT, STEPS = Bytes(), 16, 70
SHAPE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2, "context": CONTEXT, "vocabulary": 257}
NETS = {
    "encoder": Encoder(**SHAPE, segments=2),
    "decoder": Decoder(**SHAPE),
    "prefix": Decoder(**SHAPE, mask="prefix"),
    "encoder_decoder": EncoderDecoder(**SHAPE),
}
every_net = pytest.mark.parametrize("net", NETS)
every_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Tiny products gain nothing from threads."""


def example(draw: random.Random, task: str) -> tuple[str, Any, list[str]]:
    """A text whose letters tell its answer: its class by a letter, its score by a count, its span by marks."""
    letters = draw.choices("abcdefg", k=draw.randint(6, 13))
    place = draw.randrange(len(letters) - 2)
    if task == "classification":
        label = draw.randrange(3)
        letters[place] = "xyz"[label]
        return "".join(letters), label, []
    if task == "regression":
        score = draw.randrange(2)
        letters[place] = "xy"[score]
        return "".join(letters), 3.0 + 2 * score, []
    if draw.random() < 0.3:
        return "".join(letters), (-1, -1), []
    letters[place : place + 3] = ["<", draw.choice("pqr"), ">"]
    return "".join(letters), (place + 1, place + 1), [letters[place + 1]]


def opened(folder: Path, task: str, many: int = 400, context: int = CONTEXT) -> Opened:
    """A folder of examples, one in ten held out."""
    draw, writer = random.Random(task), ExampleWriter(folder, TOKENIZER, task, paired=False)
    for number in range(many):
        text, answer, right = example(draw, task)
        split = "held_out" if number % 10 == 0 else "train"
        writer.add(split, [(np.array(TOKENIZER.encode(text)), len(text))], answer, right, number)
    writer.close(["x", "y", "z"] if task == "classification" else [], mean=4.0, deviation=1.0)
    TOKENIZER.save(folder / "tokenizer")
    return Opened(Data(path=str(folder), context=context, batch_tokens=16 * context), "auto")


def module(net: str, task: str, folder: Path, layers: int = 2, **options: Any) -> Any:
    """The objective with its nets."""
    config, model = Finetune(task=task, classes=["x", "y", "z"], mean=4.0, **options), replace(NETS[net], layers=layers)
    config.check(model)
    end = Progress(1, 16, 16 * CONTEXT)
    setting = Setting(seed=0, first=Progress(), total=end, folder=folder, tokenizer=TOKENIZER)
    made = config.build(model, None, None, setting)
    made.configure_model()
    return made


@every_task
@pytest.mark.parametrize("net", ["encoder", "decoder", "encoder_decoder"])
def test_what_is_separable_is_learned(net: str, task: str, tmp_path: Path) -> None:
    data, made = opened(tmp_path, task), module(net, task, tmp_path, layers=1, dropout=0.0)
    steps = Steps(data.train, data.layout, 0, Progress(), STEPS, 24, 24)
    optimizer = torch.optim.AdamW(made.trainable(), lr=3e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=len(steps))
    for index in range(len(steps)):
        (batch,) = steps[index].micro_batches
        loss, _ = made.loss(made(batch), batch)
        optimizer.zero_grad()
        (loss / 24).backward()
        torch.nn.utils.clip_grad_norm_(made.trainable(), 1.0)
        optimizer.step()
        rate.step()
    made.eval()
    held = HeldOut(data.held_out, data.layout, 16)
    with torch.no_grad():
        rows = torch.cat(
            [
                made._rows(made(batch), batch, batch.examples_B >= 0)
                for i in range(len(held))
                for batch in held[i].micro_batches
            ]
        )
    assert len(rows) == 40
    found = made._measured(rows.double().numpy())
    if task == "classification":
        assert found["accuracy"] > 0.9 > found["majority_accuracy"] + 0.3
    elif task == "regression":
        assert found["mse"] < 0.25 * found["mean_mse"]
        assert found["pearson"] > 0.85
    else:
        assert found["exact_match"] > 0.85 > found["no_answer_exact_match"] + 0.3
        assert found["f1"] >= found["exact_match"]


@every_task
@every_net
def test_an_example_is_answered_the_same_alone_and_beside_others_and_padding(
    net: str, task: str, tmp_path: Path
) -> None:
    data, made = opened(tmp_path, task, 40), module(net, task, tmp_path).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    wide, narrow = (lay(data.train, layout, np.array([3, -1, 5, 7])).batch() for layout in (data.layout, data.layout))
    with torch.no_grad():
        together = answered(made.nets["model"], made.head, wide)
        total, _ = made.loss(together, wide)
        parts = 0.0
        for row, number in enumerate((3, -1, 5, 7)):
            if number < 0:
                continue
            alone = lay(data.train, data.layout, np.array([number])).batch()
            length = int(alone.last_B) + 1
            alone.tokens_BT, alone.documents_BT = alone.tokens_BT[:, :length], alone.documents_BT[:, :length]
            alone.segments_BT = alone.segments_BT[:, :length]
            found = answered(made.nets["model"], made.head, alone)
            cut = together[row, :length] if task == "span" else together[row]
            torch.testing.assert_close(found[0], cut, atol=1e-9, rtol=0)
            loss, _ = made.loss(found, alone)
            parts += float(loss)
    assert parts == pytest.approx(float(total), abs=1e-9)
    assert narrow.examples_B.tolist() == [3, -1, 5, 7]


def test_a_decoder_reads_its_last_position_and_an_encoder_its_first(tmp_path: Path) -> None:
    data = opened(tmp_path, "classification", 40)
    batch = lay(data.train, data.layout, np.array([0, 1])).batch()
    for net in ("decoder", "encoder"):
        made = module(net, "classification", tmp_path).eval()
        stream = made.nets["model"].stream(batch.tokens_BT, batch.documents_BT)
        at = batch.last_B if net == "decoder" else torch.zeros_like(batch.last_B)
        read = stream[torch.arange(2), at]
        assert (made.head.pool is None) == (net == "decoder")
        read = read if made.head.pool is None else torch.tanh(made.head.pool(read))
        torch.testing.assert_close(made(batch), made.head.out(read))
        if net == "encoder":
            other = made.nets["model"].stream(batch.tokens_BT, batch.documents_BT, None, batch.segments_BT * 0 + 1)
            assert not torch.allclose(stream, other), "kinds of text are told apart"


def test_the_head_for_tokens_is_left_as_it_is(tmp_path: Path) -> None:
    made = module("encoder", "classification", tmp_path)
    frozen = {name for name, parameter in made.nets.named_parameters() if not parameter.requires_grad}
    assert frozen == {"model.head.weight"}


@pytest.mark.parametrize("kept", [[True] * 6, [True, False, True, True, False, True]])
def test_losses_are_the_sums_that_others_compute(kept: list[bool]) -> None:
    draw = torch.Generator().manual_seed(0)
    kept_B = torch.tensor(kept)
    logits, labels = torch.randn(6, 4, generator=draw).double(), torch.tensor([0, 3, 2, 1, 0, 2])
    log_loss = metrics.log_loss(labels[kept_B], functional.softmax(logits[kept_B], dim=1), labels=range(4))
    assert float(losses.classes(logits, labels, kept_B)) == pytest.approx(log_loss * sum(kept), rel=1e-12)
    answers, wanted = torch.randn(2, 6, generator=draw).double()
    squared = metrics.mean_squared_error(wanted[kept_B], answers[kept_B]) * sum(kept)
    assert float(losses.scores(answers, wanted, kept_B)) == pytest.approx(squared, rel=1e-12)
    spans, lengths = torch.tensor([[0, 0], [1, 2], [3, 3], [2, 4], [0, 0], [1, 4]]), torch.tensor([5, 4, 5, 7, 5, 6])
    both, there = torch.randn(6, 7, 2, generator=draw).double(), torch.arange(7) < lengths[:, None]
    by_hand = 0.0
    for row in range(6):
        if kept[row]:
            for which in (0, 1):
                cut = both[row, : lengths[row], which]
                by_hand += float(cut.exp().sum().log() - cut[spans[row, which]]) / 2
    assert float(losses.spans(both, spans, there, kept_B)) == pytest.approx(by_hand, rel=1e-12)


def test_no_loss_has_a_gradient_in_rows_that_hold_nothing() -> None:
    kept_B, there = torch.tensor([True, False]), torch.tensor([[True, True, False], [False, False, False]])
    both = torch.randn(2, 3, 2, requires_grad=True)
    losses.spans(both, torch.zeros(2, 2, dtype=torch.int64), there, kept_B).backward()
    assert both.grad is not None and both.grad.isfinite().all()
    assert not both.grad[1].any() and not both.grad[0, 2].any()


def test_measures_of_classes_are_sklearns() -> None:
    draw = np.random.default_rng(0)
    for classes in (2, 3, 5):
        true, told = draw.integers(0, classes - (classes == 5), (2, 50))
        found = measures.of_classes(told, true, classes)
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, told))
        options = {"average": "macro", "labels": range(classes), "zero_division": 0}
        assert found["macro_f1"] == pytest.approx(metrics.f1_score(true, told, **options))
        most = np.full(50, stats.mode(true).mode)
        assert found["majority_accuracy"] == pytest.approx(metrics.accuracy_score(true, most))
        assert found["majority_macro_f1"] == pytest.approx(metrics.f1_score(true, most, **options))


def test_measures_of_scores_are_scipys() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(0, 6, 80).astype(float)
    told = true + draw.normal(0, 2, 80).round(1)
    found = measures.of_scores(told, true, 2.0)
    assert found["pearson"] == pytest.approx(stats.pearsonr(told, true).statistic, rel=1e-12)
    assert found["spearman"] == pytest.approx(stats.spearmanr(told, true).statistic, rel=1e-12)
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(true, told), rel=1e-12)
    assert found["mean_mse"] == pytest.approx(metrics.mean_squared_error(true, np.full(80, 2.0)), rel=1e-12)
    assert measures.of_scores(np.ones(3), np.arange(3.0), 1.0)["pearson"] == 0.0


@pytest.mark.parametrize(
    ("told", "right", "exact", "f1"),
    [
        ("The Denver Broncos!", ["denver  broncos"], 1, 1),
        ("Denver", ["Denver Broncos", "Broncos"], 0, 2 / 3),
        ("the Broncos of Denver", ["Denver Broncos"], 0, 0.8),
        ("no no yes", ["no yes yes"], 0, 2 / 3),
        ("", [], 1, 1),
        ("", [""], 1, 1),
        ("Denver", [], 0, 0),
        ("", ["Denver"], 0, 0),
        ("a.", ["an"], 1, 1),
    ],
)
def test_measures_of_spans_are_squads(told: str, right: list[str], exact: float, f1: float) -> None:
    assert measures.exact_match(told, right) == exact
    assert measures.token_f1(told, right) == pytest.approx(f1)


def test_the_best_span_is_the_best_of_all_that_may_be() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, text = (
        torch.randn(40, 12, 2, generator=draw),
        torch.tensor([[3, 11], [1, 12], [5, 6], [4, 4]]).repeat(10, 1),
    )
    found = best_spans(logits, text, most=3)
    none = 0
    for row in range(40):
        first, behind = text[row].tolist()
        scores = {(0, 0): float(logits[row, 0].sum())}
        for start in range(first, behind):
            for end in range(start, min(start + 3, behind)):
                scores[start, end] = float(logits[row, start, 0] + logits[row, end, 1])
        assert tuple(found[row].tolist()) == max(scores, key=lambda span: scores[span])
        none += found[row].tolist() == [0, 0]
    assert 10 <= none < 30


def test_a_head_comes_back_from_its_files_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    made = module("encoder", "classification", tmp_path)
    task_head.save(made.head.config, made.head.state_dict(), tmp_path)
    back = task_head.load(tmp_path)
    assert back.config == made.head.config and not back.training
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), made.head.parameters(), strict=True))
    content = bytearray((tmp_path / "task.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "task.safetensors").write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="is damaged: its checksum"):
        task_head.load(tmp_path)
    (tmp_path / "task.json").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        task_head.load(tmp_path)


def test_networks_without_a_stream_are_refused() -> None:
    class Other:
        kind = "ngram"

    with pytest.raises(ConfigError, match="model=ngram: is a network whose stream no head can read"):
        Finetune().check(Other())
