"""Where metrics go: the csv file of a resumed run, W&B without an account, TensorBoard after a rollback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.trainer import logger_config
from groundup.trainer.loggers import Logger, wandb_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "nano" / "0123456789abcdef"


def log(logger: Logger, first: int, last: int) -> None:
    for step in range(first, last + 1):
        logger.log_metrics({"train/loss": torch.tensor(1.0 / step), "speed/tokens_per_second": 7.0 * step}, step=step)


def test_csv_after_a_resume_is_that_of_an_undisturbed_run(folder: Path, tmp_path: Path) -> None:
    log(logger_config.Csv().build(folder, "nano", Progress()), 1, 8)
    resumed = logger_config.Csv().build(folder, "nano", Progress(steps=5))
    log(resumed, 6, 12)
    resumed.save()
    log(logger_config.Csv().build(tmp_path / "whole", "nano", Progress()), 1, 12)
    for name in ("metrics.csv", "speed.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "speed" not in (folder / "metrics.csv").read_text() and "loss" not in (folder / "speed.csv").read_text()


def test_csv_is_written_even_if_only_others_are_chosen(folder: Path) -> None:
    kinds = [type(logger).__name__ for logger in logger_config.build({}, folder, "nano", Progress())]
    assert kinds == ["Csv"]
    chosen = {"tensorboard": logger_config.Tensorboard(), "csv": logger_config.Csv()}
    kinds = [type(logger).__name__ for logger in logger_config.build(chosen, folder, "nano", Progress())]
    assert kinds == ["Tensorboard", "Csv"]


@pytest.mark.parametrize("kind", ["csv", "wandb", "tensorboard"])
def test_other_ranks_than_the_first_write_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = {"csv": logger_config.Csv, "wandb": logger_config.Wandb, "tensorboard": logger_config.Tensorboard}[kind]()
    logger = config.build(folder, "nano", Progress())
    log(logger, 1, 2)
    logger.log_hyperparams({"seed": 0})
    logger.save()
    logger.finalize("success")
    assert not folder.exists()


def test_a_metric_without_a_step_is_refused(folder: Path) -> None:
    logger = logger_config.Csv().build(folder, "nano", Progress())
    with pytest.raises(ValueError, match="give step="):
        logger.log_metrics({"loss": 1.0})
    assert (logger.name, logger.version, logger.save_dir) == ("nano", folder.name, str(folder))


def test_wandb_needs_no_account_and_keeps_every_step_after_a_rollback(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(folder / "none"))
    first = logger_config.Wandb().build(folder, "nano", Progress())
    other = logger_config.Wandb().build(folder.with_name("fedcba9876543210"), "nano", Progress())
    first.log_hyperparams({"seed": 0})
    log(first, 1, 9)
    log(other, 1, 2)
    log(first, 4, 6)
    assert dict(first._run.summary)["step"] == 6 and dict(other._run.summary)["step"] == 2
    assert first._run.step == 12, "a row went missing"
    assert (first._run.group, first._run.name, first._run.offline) == ("nano", "nano-01234567", True)
    assert first._run.id != other._run.id and first._run.id.startswith(folder.name)
    for logger in (first, other):
        logger.finalize("success")
        log(logger, 10, 10)
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1


def test_a_wandb_run_may_be_shown_among_those_of_another_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(folder / "none"))
    logger = logger_config.Wandb(group="study").build(folder, "trial-003", Progress())
    assert (logger._run.group, logger._run.name) == ("study", "trial-003-01234567")
    logger.finalize("success")


def test_a_wandb_run_keeps_its_id_online(folder: Path) -> None:
    from groundup.trainer.loggers import _lasting_id

    once = _lasting_id(folder / "wandb" / "id", folder.name)
    assert _lasting_id(folder / "wandb" / "id", folder.name) == once
    assert _lasting_id(folder / "elsewhere" / "id", folder.name) != once


def test_a_wandb_key_is_found_where_wandb_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not wandb_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert wandb_key()


def test_tensorboard_forgets_the_events_of_steps_done_again(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = logger_config.Tensorboard().build(folder, "nano", Progress())
    log(first, 1, 8)
    first.finalize("failed")
    log(first, 9, 9)
    second = logger_config.Tensorboard().build(folder, "nano", Progress(steps=5))
    log(second, 6, 7)
    second.save()
    second.finalize("success")
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("package", "config"), [("wandb", logger_config.Wandb()), ("tensorboard", logger_config.Tensorboard())]
)
def test_a_logger_whose_package_is_missing_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, config: object
) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        config.build(folder, "nano", Progress())
