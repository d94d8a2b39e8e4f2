"""The card of an export: what its run left is in it, and nothing else; the files here are such as runs leave."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from groundup.callback.history import METRICS, History
from groundup.core.files import atomic_json
from groundup.core.progress import Progress
from groundup.evaluation.page import page as evaluation_page
from groundup.interop.card import card, recorded
from groundup.interop.folder import export
from groundup.model.config import Decoder
from groundup.model.load import load, read_config
from groundup.shard.manifest import Holding, Manifest, Shard, Stored, Vocabulary
from groundup.tokenizer.byte import Bytes
from groundup.trainer import segments
from groundup.trainer.page import page as run_page
from groundup.trainer.segments import Segment

Make = Callable[..., Path]
HOME = "/home/somebody"
CONFIG: dict[str, Any] = {
    "kind": "train",
    "name": "bible|nano",
    "seed": 7,
    "tokens": 1_228_800,
    "model": {"kind": "decoder", "layers": 2, "width": 64, "init_from": None},
    "data": {
        "kind": "shards",
        "path": f"{HOME}/data/scriptures",
        "context": 48,
        "batch_tokens": 4096,
        "weights": {"bible": 0.75, "laws": [[0, 0.25], [900, 0.5]]},
    },
    "objective": {"clip": 1.0, "kind": "pretrain", "z_loss": None},
    "optimizer": {"adamw_rate": 0.003, "kind": "muon", "rate": 0.02},
    "schedule": {"decay_fraction": 0.2, "final": 0.0, "kind": "wsd", "warmup_steps": None},
    "trainer": {"kind": "standard", "precision": "auto"},
    "runs": f"{HOME}/runs",
}
CHANGE = {"data.batch_tokens": 8192, "objective.clip": None}
REPORT: dict[str, Any] = {
    "name": "bible|nano",
    "identity": "0123456789abcdef",
    "steps": 250,
    "tokens": 1_228_800,
    "epochs": 1.5,
    "parameters": {"embedding": 1, "matrix": 1, "vector": 1, "total": 3},
    "flops_per_token": 100,
    "precision": "bf16",
    "held_out": {"bible": 1.98765, "laws": None, "all": 2.0625},
    "held_out_first": {},
    "speed": {
        "tokens_per_second": 1000.0,
        "mfu": None,
        "matrix_share": 0.5,
        "training_seconds": 100.0,
        "elapsed_seconds": 125.0,
        "memory_bytes": None,
    },
    "samples": None,
    "compared_share": 1.0,
    "data": [
        {"split": "train", "source": "bible", "documents": 1189, "tokens": 819_200, "bytes": 3_000_000},
        {"split": "held_out", "source": "bible", "documents": 63, "tokens": 43_210, "bytes": 160_000},
    ],
    "config": CONFIG,
    "segments": [
        {"first": 0, "reason": "start", "set": {}},
        {"first": 200, "reason": "change at 819200 tokens", "set": CHANGE},
    ],
    "environment": {"device": "1 × Accelerator", "Python": "3.11.7", "groundup": "0.1.0", "torch": "2.13.0"},
}
HOW = {
    "limit": None,
    "batch": None,
    "batch_tokens": 1024,
    "start": 256,
    "context": 48,
    "dtype": "bf16",
    "seed": 1234,
    "versions": {"groundup": "0.1.0", "torch": "2.13.0", "lm_eval": "0.4.13", "datasets": "4.0.0"},
}
CLOZE = {
    "task": "held_out_cloze",
    "group": False,
    "num_fewshot": 5,
    "metrics": [{"name": "acc", "filter": "none", "value": 0.3125, "stderr": 0.0146}],
    "questions": 1003,
    "chance": None,
    "version": 1,
    "hash": "ab" * 32,
    "seconds": 1.5,
    "shortened": 0,
    **HOW,
}
FAILED = {"task": f"{HOME}/mine.yaml", "group": False, "num_fewshot": None, "error": f"no {HOME}/mine.jsonl", **HOW}
EVALUATION: dict[str, Any] = {
    "name": "bible|nano",
    "run": f"{HOME}/runs/nano",
    "weights": "the finished run",
    "steps": 250,
    "tokens": 1_228_800,
    "parameters": 3,
    "precision": "bf16",
    "environment": {"device": "1 × Other", "Python": "3.11.7"},
    "held_out": {"bible": 1.5, "all": 1.5},
    "results": [CLOZE, FAILED],
    "samples": [],
    "sampling": {"tokens": 200, "temperature": 0.8, "top_k": None, "top_p": None, "seed": 0},
}


def planned(run: Path, config: dict[str, Any] = CONFIG) -> None:
    """Leave the list of a run's segments."""
    first, second = Progress(200, 17_067, 819_200), Progress(250, 25_600, 1_228_800)
    changed = Segment(first, second, CHANGE, "change at 819200 tokens")
    segments.write(run, config, [Segment(Progress(), first), changed])


def prepared(data: Path, digest: str) -> None:
    """Leave the manifest of two documents."""
    stored = [Stored(f"bible.{name}", size, "0" * 64) for name, size in (("tokens", 24), ("ends", 16), ("origin", 9))]
    splits = {"train": {"bible": Holding.of([Shard(12, 2, 10, *stored)])}}
    Manifest(Vocabulary(digest, 257, 256, "uint16"), splits).write(data)


def sections(folder: Path) -> dict[str, str]:
    """The parts of an export's card by heading; what stands before the first under nothing."""
    head, *parts = (folder / "README.md").read_text(encoding="utf-8").split("\n## ")
    return {"": head, **{part.partition("\n")[0]: part.partition("\n")[2] for part in parts}}


def test_a_card_of_a_bare_model_folder_says_what_is_not_known(made: Make, tmp_path: Path) -> None:
    run = made(Bytes(), tied=True)
    export(run, tmp_path / "hf")
    found = sections(tmp_path / "hf")
    parameters = sum(parameter.numel() for parameter in load(run).parameters())
    assert f"`NanoChatForCausalLM` of {parameters:,} parameters" in found[""]
    assert "# run\n" in found[""] and "context of 48 tokens and a vocabulary of 257 ids" in found[""]
    assert f"tokenizer: bytes, digest `{Bytes().digest}`" in found[""]
    assert 'model="hf"' in found["How to use"]
    for name in ("Training data", "Training", "Environment"):
        assert found[name].strip() == "Not recorded.", name
    assert found["Evaluation"].split() == ["Held-out", "text:", "not", "measured.", "Tasks:", "not", "measured."]
    assert "not measured" in found["Bias and toxicity"] and "Nobody should deploy" in found["Bias and toxicity"]
    assert "follows instructions is not recorded" in found["Limits"]
    assert "Tokens it was trained on: not recorded." in found["Limits"]
    assert "for their owner to state" in found["Licence"]


def test_a_card_of_a_run_shows_the_figures_of_its_reports(made: Make, tmp_path: Path) -> None:
    run = made(Bytes())
    planned(run)
    atomic_json(run / "report.json", REPORT)
    atomic_json(run / "evaluation" / "evaluation.json", EVALUATION)
    export(run, tmp_path / "hf")
    found = sections(tmp_path / "hf")
    assert "# bible\\|nano\n" in found[""]
    assert "Data folder scriptures, as it was:" in found["Training data"]
    assert "| train | bible | 1,189 | 819,200 |" in found["Training data"]
    assert "| held\\_out | bible | 63 | 43,210 |" in found["Training data"]
    assert "Mixture: bible 0.75, laws \\[\\[0, 0.25\\], \\[900, 0.5\\]\\]." in found["Training data"]
    for row in (
        "| begun with | random weights |",
        "| objective | kind pretrain, clip 1 |",
        "| optimizer | kind muon, adamw\\_rate 0.003, rate 0.02 |",
        "| schedule | kind wsd, decay\\_fraction 0.2, final 0 |",
        "| tokens of a batch | 4,096 |",
        "| steps | 250 |",
        "| tokens | 1,228,800 |",
        "| seed | 7 |",
        "| precision | bf16 |",
        "| wall-clock time | 2m 05s |",
        "| 0 | start | – |",
        "| 200 | change at 819200 tokens | data.batch\\_tokens 8,192, objective.clip null |",
    ):
        assert f"{row}\n" in f"{found['Training']}\n", row
    assert "of the finished weights" in found["Evaluation"]
    for row in ("| bible | 1.98765 |", "| laws | not recorded |", "| all | 2.0625 |"):
        assert row in found["Evaluation"], row
    assert "| held\\_out\\_cloze | 5 | acc | 0.3125 | 0.0146 | 1,003 |" in found["Evaluation"]
    assert "| mine.yaml | not recorded | not measured |" in found["Evaluation"]
    assert "It is a base model" in found["Limits"] and "trained on: 1,228,800." in found["Limits"]
    assert "not measured" in found["Bias and toxicity"]
    assert "| torch | 2.13.0 |" in found["Environment"]


def test_a_run_without_a_report_is_told_from_its_plan_its_log_and_its_data(made: Make, tmp_path: Path) -> None:
    run, data = made(Bytes()), tmp_path / "scriptures"
    planned(run, {**CONFIG, "data": {**CONFIG["data"], "path": str(data), "weights": {}}})
    for step, value in ((100, 3.5), (250, 2.25)):
        History(run / METRICS).append(step, {"train/loss": 9.5, "held_out/bible": value, "held_out/all": value + 0.5})
    prepared(data, Bytes().digest)
    export(run, tmp_path / "hf")
    found = sections(tmp_path / "hf")
    assert "as it is now" in found["Training data"] and "| train | bible | 2 | 12 |" in found["Training data"]
    assert "Mixture: sources by their size." in found["Training data"]
    assert "| tokens, as planned | 1,228,800 |" in found["Training"] and "| 200 | change at" in found["Training"]
    assert "| precision | auto |" in found["Training"] and "| wall-clock time | not recorded |" in found["Training"]
    assert "the weights of step 250, not of the finished ones" in found["Evaluation"]
    assert "| bible | 2.25 |" in found["Evaluation"] and "| all | 2.75 |" in found["Evaluation"]
    assert "3.5" not in found["Evaluation"] and "9.5" not in found["Evaluation"]
    assert found["Environment"].strip() == "Not recorded."


def test_data_of_another_tokenizer_is_not_taken_for_the_runs(made: Make, tmp_path: Path) -> None:
    run, data = made(Bytes()), tmp_path / "scriptures"
    planned(run, {**CONFIG, "data": {**CONFIG["data"], "path": str(data)}})
    prepared(data, "0" * 64)
    assert recorded(run, "0" * 64)["data"] != []
    assert recorded(run, Bytes().digest)["data"] == []


def test_only_the_newest_evaluation_of_the_finished_weights_is_shown(made: Make, tmp_path: Path) -> None:
    run = made(Bytes())
    atomic_json(run / "report.json", REPORT)
    newest = {**CLOZE, "task": "toxigen", "num_fewshot": 0}
    for age, (place, steps, result) in enumerate(
        [
            ("step-000000100", 100, {**CLOZE, "task": "of_an_early_checkpoint"}),
            ("step-000000250", 250, newest),
            (".", 250, {**CLOZE, "task": "asked_before"}),
        ]
    ):
        path = run / "evaluation" / place / "evaluation.json"
        atomic_json(path, {**EVALUATION, "steps": steps, "results": [result]})
        os.utime(path, (1e9 - age, 1e9 - age))
    export(run, tmp_path / "hf")
    found = sections(tmp_path / "hf")
    for name in ("Evaluation", "Bias and toxicity"):
        assert "| toxigen | 0 | acc | 0.3125 | 0.0146 | 1,003 |" in found[name]
        assert "early" not in found[name] and "before" not in found[name]
    assert "Nobody should deploy" in found["Bias and toxicity"]


@pytest.mark.parametrize(
    ("kind", "unit"),
    [("pretrain", "bits per byte"), ("masked", "bits per hidden byte"), ("span", "bits per hidden byte")],
)
def test_figures_of_hidden_text_are_called_so(kind: str, unit: str, made: Make) -> None:
    run = made(Bytes())
    atomic_json(run / "report.json", {**REPORT, "config": {**CONFIG, "objective": {"kind": kind}}})
    said = card("x", "Net", read_config(run), Bytes(), recorded(run, Bytes().digest))
    assert f"| held-out text | {unit} |" in said
    assert ("no measure of the text" in said) == (kind != "pretrain")


def test_weights_that_were_begun_with_are_told(made: Make) -> None:
    run = made(Bytes())
    planned(run, {**CONFIG, "model": {**CONFIG["model"], "init_from": f"{HOME}/models/chatty"}})
    text = card("hf", "Some", Decoder(context=8, vocabulary=257), Bytes(), recorded(run, Bytes().digest))
    assert "| begun with | the weights of chatty |" in text
    assert "what its first weights had seen is not counted" in text
    assert "base model" not in text, "what weights began with may follow instructions"


def test_no_path_of_this_machine_is_in_a_card(made: Make, tmp_path: Path) -> None:
    run = made(Bytes())
    told = {"plugin": [f"{HOME}/a", {"b": "~/b", "c": "C:\\Users\\somebody\\c", "d": "s3://somebody:key@bucket/d?k=v"}]}
    config = {**CONFIG, "optimizer": {**CONFIG["optimizer"], **told}, "name": f"{HOME}/nano"}
    atomic_json(run / "report.json", {**REPORT, "config": config})
    atomic_json(run / "evaluation" / "evaluation.json", EVALUATION)
    export(run, tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert "plugin \\[a, b b, c c, d d\\]" in text and "# nano\n" in text
    for part in ("somebody", "/home", "Users", "key", "k=v", str(tmp_path)):
        assert part not in text, part


def test_what_a_run_is_called_cannot_break_the_card(made: Make, tmp_path: Path) -> None:
    run = made(Bytes())
    odd = "a|b\n---\n<b>`c`*[d](e)"
    rows = [{**REPORT["data"][0], "source": odd}]
    atomic_json(run / "report.json", {**REPORT, "config": {**CONFIG, "name": odd}, "data": rows})
    export(run, tmp_path / 'h"f')
    found = sections(tmp_path / 'h"f')
    safe = "a\\|b --- \\<b\\>\\`c\\`\\*\\[d\\](e)"
    assert f"# {safe}\n" in found[""]
    assert f"| train | {safe} | 1,189 | 819,200 |" in found["Training data"]
    assert 'model="h\\"f"' in found["How to use"]
    assert list(found)[1:] == [
        "How to use",
        "Training data",
        "Training",
        "Evaluation",
        "Limits",
        "Bias and toxicity",
        "Environment",
        "Licence",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff", b'{"config": 3, "steps": 5}', b'{"config": {"optimizer": "adam"}}']
)
def test_damaged_files_and_those_of_other_programs_are_as_good_as_none(content: bytes, made: Make) -> None:
    run = made(Bytes())
    network = ("hf", "Some", Decoder(context=8, vocabulary=257), Bytes())
    bare = card(*network, recorded(run, Bytes().digest))
    (run / "evaluation").mkdir()
    for name in ("report.json", "segments.jsonl", "metrics.csv", "evaluation/evaluation.json"):
        if name != "segments.jsonl" or b"config" not in content:
            (run / name).write_bytes(content)
    assert card(*network, recorded(run, Bytes().digest)) == bare


def test_the_front_matter_is_what_the_hub_reads(made: Make, tmp_path: Path) -> None:
    export(made(Bytes()), tmp_path / "hf")
    nothing, front, _ = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert nothing == ""
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["groundup"],
    }
    hub = pytest.importorskip("huggingface_hub", reason="it judges the card")
    loaded = hub.ModelCard.load(tmp_path / "hf" / "README.md")
    assert loaded.data.library_name == "transformers" and loaded.data.license is None
    assert loaded.text.lstrip().startswith("# run")


ENCODER: dict[str, Any] = {"positions": "learned", "norm": "layer", "gain": True, "bias": True, "qk_norm": False}
ENCODER |= {"norm_place": "post", "init": "gpt2", "activation": "gelu", "head_transform": True, "head_bias": True}
T5: dict[str, Any] = {
    "positions": "t5",
    "embedding_norm": False,
    "scaled_scores": False,
    "qk_norm": False,
    "gain": True,
}


@pytest.mark.parametrize(
    ("parts", "tag", "use", "limit"),
    [
        (
            {**ENCODER, "kind": "encoder", "vocabulary": 258},
            "fill-mask",
            'filler = pipeline("fill-mask", model="hf")\nprint(filler("In the<mask>")',
            "tells what is hidden in a text, and writes none",
        ),
        ({**ENCODER, "kind": "encoder"}, "fill-mask", "AutoModelForMaskedLM, AutoTokenizer", "writes none"),
        ({**T5, "kind": "encoder_decoder"}, "text2text-generation", "AutoModelForSeq2SeqLM", "restores what is hidden"),
    ],
)
def test_the_card_of_another_kind_says_how_it_is_used(
    parts: dict[str, Any], tag: str, use: str, limit: str, made: Make, tmp_path: Path
) -> None:
    run = made(Bytes(), **parts)
    kind = "masked" if parts["kind"] == "encoder" else "span"
    atomic_json(run / "report.json", {**REPORT, "config": {**CONFIG, "objective": {"kind": kind, "first_sentinel": 0}}})
    export(run, tmp_path / "hf")
    found = sections(tmp_path / "hf")
    assert f"pipeline_tag: {tag}\n" in found[""]
    assert use in found["How to use"] and limit in found["Limits"]
    program = found["How to use"].strip().removeprefix("```python\n").removesuffix("```")
    pytest.importorskip("transformers", reason="the program asks for it")
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()) as said:
        exec(program, {})
    assert said.getvalue().strip() or tag == "text2text-generation"


def test_the_reports_written_here_are_such_as_runs_write(tmp_path: Path) -> None:
    figures = {**REPORT, "held_out": {"all": 2.0625}}  # what could not be measured is null in the file alone
    pages = run_page(figures, None).write(tmp_path), evaluation_page(EVALUATION, tmp_path).write(tmp_path, "evaluation")
    run, evaluation = (page.read_text(encoding="utf-8") for _, page in pages)
    assert str(REPORT["config"]["name"]) in run
    assert all(result["task"] in evaluation for result in EVALUATION["results"])
