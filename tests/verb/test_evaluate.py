"""evaluate.py on a small run: one report, refusals in one line, nothing lost where a task fails, text as it comes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from processes import together

from groundup.core import checkpoint
from groundup.core.config import compose
from groundup.core.errors import CheckpointError, ConfigError, DataError, UserError
from groundup.generation import sample
from groundup.model.load import load
from groundup.tokenizer.load import load as load_tokenizer
from groundup.verb.evaluate import Evaluate

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
SHAPE = ["model.layers=1", "model.width=32", "model.heads=2", "data.context=64", "data.batch_tokens=512"]
QUICK = ["trainer.compile=false", "trainer.accelerator=cpu", "callback=[checkpoint]", "callback.checkpoint.every=4"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and a finished run of eight steps."""
    import groundup.verb.prepare
    import groundup.verb.train  # noqa: F401  # they register the groups

    place = tmp_path_factory.mktemp("evaluate")
    prepare = composed("prepare", "source=[topics]", "tokenizer.vocabulary=600", "held_out=0.2", f"path={place}/data")
    prepare.check()
    prepare.run()
    train = composed("train", f"data.path={place}/data", f"runs={place}/runs", "tokens=4096", *SHAPE, *QUICK)
    train.check()
    train.run()
    return place


@pytest.fixture
def run(world: Path) -> Path:
    """The run's folder."""
    (folder,) = (world / "runs" / "nano").iterdir()
    return folder


def evaluate(run: Path, *overrides: str) -> Evaluate:
    """Run the verb in this process."""
    config: Evaluate = composed("evaluate", f"run={run}", "trainer.accelerator=cpu", "tokens=8", *overrides)
    config.check()
    config.do()
    return config


def test_a_run_goes_in_and_one_report_comes_out(world: Path, run: Path) -> None:
    evaluate(world / "runs" / "nano", "evaluation.limit=6")  # the only run in it
    place = run / "evaluation"
    figures = json.loads((place / "evaluation.json").read_text())
    logged = json.loads((run / "report.json").read_text())["held_out"]
    assert figures["held_out"] == pytest.approx(logged, rel=1e-6)
    assert [result["task"] for result in figures["results"]] == ["held_out_cloze", "held_out_continuation"]
    assert all(result["questions"] == 6 for result in figures["results"])
    assert len(figures["samples"]) == 3
    page = (place / "evaluation.html").read_text()
    assert "held_out_continuation" in page
    assert page.count("data:image/png") == 2
    assert "bits per byte" in (place / "evaluation.md").read_text()


def test_a_checkpoint_has_a_report_of_its_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = checkpoint.listed(run)[0]
    evaluate(first, "evaluation.tasks=[]")
    figures = json.loads((run / "evaluation" / first.name / "evaluation.json").read_text())
    assert figures["steps"] == checkpoint.step_of(first)
    assert figures["held_out"]["all"] > json.loads((run / "report.json").read_text())["held_out"]["all"]


def test_ranks_report_what_one_process_does_and_none_holds_a_network_that_is_cut(run: Path, tmp_path: Path) -> None:
    """Of the finished run and of a checkpoint, each read by every rank for itself."""
    asked = ["evaluation.limit=6", "trainer.precision=fp32", "prompts=[The]"]
    places = {"fsdp": run, "tensor": checkpoint.listed(run)[0]}
    cases = [(str(p), [*asked, f"strategy={k}", f"out={tmp_path / k}"]) for k, p in places.items()]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    together(Path(__file__).with_name("evaluated_ranks.py"), tmp_path / "cases.json", processes=2, seconds=900)
    for kind, place in places.items():
        evaluate(place, *asked, f"out={tmp_path / 'one' / kind}")
        one, two = (json.loads((tmp_path / at / "evaluation.json").read_text()) for at in (f"one/{kind}", kind))
        assert two["held_out"] == pytest.approx(one["held_out"], rel=1e-5)
        assert two["samples"] == one["samples"]
        assert len(two["results"]) == len(one["results"]) == 2
        for mine, theirs in zip(one["results"], two["results"], strict=True):
            assert [mine[key] for key in ("task", "questions", "hash")] == [
                theirs[key] for key in ("task", "questions", "hash")
            ]
            values = ([metric["value"] for metric in result["metrics"]] for result in (mine, theirs))
            assert next(values) == pytest.approx(next(values), rel=1e-4)
    for rank in (0, 1):
        for found in json.loads((tmp_path / f"held-{rank}.json").read_text()):
            assert found["same"]
            assert found["share"] < 0.55


def test_a_network_in_stages_and_text_of_several_processes_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="strategy=pipeline: leaves a part of the network on each rank"):
        evaluate(run, "strategy=pipeline")
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="task=sample: writes in one process, not in 2"):
        evaluate(run, "task=sample")


def test_an_unfinished_run_is_taken_at_its_newest_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    for name in ("weights.safetensors", "model.json"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    evaluate(tmp_path / "run", "evaluation.tasks=[]", "prompts=[]")
    assert "not finished" in capsys.readouterr().out
    figures = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert figures["held_out"] == pytest.approx(json.loads((run / "report.json").read_text())["held_out"], rel=1e-6)


def test_a_model_folder_without_a_history_is_asked_too(world: Path, run: Path, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "model.json"):
        (tmp_path / "model").mkdir(exist_ok=True)
        shutil.copy(run / name, tmp_path / "model" / name)
    shutil.copytree(run / "tokenizer", tmp_path / "model" / "tokenizer")
    evaluate(tmp_path / "model", f"data_path={world}/data", "evaluation.limit=2", f"out={tmp_path}/out")
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert figures["held_out"]["all"] > 0
    assert len(figures["results"]) == 2
    with pytest.raises(DataError, match="give data_path=FOLDER"):
        evaluate(tmp_path / "model", f"out={tmp_path}/other")


def test_a_failing_task_is_told_once_and_the_others_stay(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: {test: /nowhere/at/all.jsonl}}\n"
        "output_type: loglikelihood\ntest_split: test\ndoc_to_text: a\ndoc_to_target: b\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(UserError, match=r"broken\.yaml: failed, as said above; the report has the reasons") as caught:
        evaluate(run, f"evaluation.tasks=[{broken},held_out]", "evaluation.limit=2", f"out={tmp_path}/out")
    told = capsys.readouterr().out
    assert told.count("data cannot be had") == 1
    assert "data cannot be had" not in str(caught.value)
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [bool(result.get("error")) for result in figures["results"]] == [True, False, False]
    assert "Tasks that failed" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_task_that_keeps_its_number_of_examples_is_noted_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluation.num_fewshot=[0,2]", "evaluation.limit=2", "prompts=[]"]
    evaluate(run, *asked, f"out={tmp_path}/out")
    told = capsys.readouterr().out.splitlines()
    for name in ("held_out_cloze", "held_out_continuation"):
        note = f"note: {name}: its own number of examples, 0, stands, whatever num_fewshot says"
        assert told.count(note) == 1
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert page.count("`held_out_cloze`, `held_out_continuation`: its own number of examples, 0, stands") == 1
    evaluate(run, "evaluation.num_fewshot=0", *asked[1:], f"out={tmp_path}/other")
    assert "note:" not in capsys.readouterr().out


def test_a_run_that_is_not_there_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "evaluate.py"), f"run={tmp_path}/none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert f"error: run={tmp_path}/none: is not a folder" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "groundup.trainer.find" in imported
    assert "torch" not in imported


def test_what_cannot_be_is_refused_before_work(world: Path, run: Path, tmp_path: Path) -> None:
    for error, says, overrides in (
        (CheckpointError, "is not a folder", [f"run={tmp_path}/none"]),
        (CheckpointError, "holds no model", [f"run={tmp_path}"]),
        (ConfigError, "is not a folder", [f"data_path={tmp_path}/none"]),
        (ConfigError, "is longer than the model's 64 positions", ["evaluation.context=65"]),
        (ConfigError, "no task of lm-eval; did you mean", ["evaluation.tasks=[arc_eazy]"]),
        (ConfigError, "set temperature=0", ["beams=2"]),
        (ConfigError, "has no meaning with beams=2", ["beams=2", "temperature=0", "top_k=3"]),
        (ConfigError, "has no meaning with beams=1", ["length_penalty=2"]),
    ):
        with pytest.raises(error, match=says) as caught:
            evaluate(run, f"out={tmp_path}/out", *overrides)
        assert "\n" not in str(caught.value)
    shutil.copytree(run, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "tokenizer")
    (tmp_path / "bare" / "segments.jsonl").unlink()
    with pytest.raises(DataError, match="tokenizer: is missing"):
        evaluate(tmp_path / "bare")
    (tmp_path / "two" / "a").mkdir(parents=True)
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / "two" / name, dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match="holds 2 runs: a, b; name one"):
        evaluate(tmp_path / "two")


def test_a_sample_is_written_as_generation_gives_it(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(run, "task=sample", "prompt=In the", "seed=5", "tokens=20")
    (text,) = sample(load(run), load_tokenizer(run / "tokenizer"), ["In the"], tokens=20, temperature=0.8, seed=5)
    assert capfd.readouterr().out == f"In the{text}\n"


def test_the_program_runs_a_task_that_imports_the_package_of_its_name(run: Path, tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text(
        "import evaluate\n\n\ndef process(doc, results):\n"
        "    assert hasattr(evaluate, 'load'), evaluate.__file__\n    return {'acc': 1.0}\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"text": "In the"}\n')
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        'output_type: loglikelihood\ntest_split: test\ndoc_to_text: "{{text}}"\ndoc_to_target: " beginning"\n'
        "process_results: !function utils.process\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    command = [sys.executable, str(ROOT / "evaluate.py"), f"run={run}", f"out={tmp_path}/out"]
    command += [f"evaluation.tasks=[{tmp_path}/mine.yaml]", "prompts=[]", "trainer.accelerator=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mine: acc 1.0000" in done.stdout
