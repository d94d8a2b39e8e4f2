"""The picture of a run's curves, from its metrics file alone."""

from __future__ import annotations

from pathlib import Path

from groundup.callback import config
from groundup.callback.curves import PICTURE, Curves, draw, panels_of
from groundup.callback.history import METRICS, History, read

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_picture_is_drawn_at_the_end_and_each_chosen_step(run) -> None:
    module, _ = run(Curves(config.Curves(every=2)), steps=3)
    assert (module.folder / PICTURE).read_bytes().startswith(PNG)
    (module.folder / PICTURE).unlink()
    run(Curves(config.Curves()), steps=3)
    assert (module.folder / PICTURE).exists()


def test_what_was_not_logged_has_no_panel(tmp_path: Path) -> None:
    assert draw(tmp_path) is None and not (tmp_path / PICTURE).exists()
    history = History(tmp_path / METRICS)
    history.append(1, {"train/loss": 2.0})
    assert [panel.title for panel in panels_of(read(history.path))] == ["training loss (nats per token)"]
    history.append(2, {"held_out/code": 1.5, "held_out/all": 1.25, "train/rate": 0.1, "train/gradient_norm": 0.5})
    panels = panels_of(read(history.path))
    assert [panel.title.split()[0] for panel in panels] == ["training", "held-out", "gradient", "learning"]
    assert [line.name for line in panels[1].lines] == ["code"]
    history.append(2, {"held_out/bible": 1.0})
    assert [line.name for line in panels_of(read(history.path))[1].lines] == ["all", "code", "bible"]
    titles = [panels_of(read(history.path), *unit)[1].title for unit in ((), ("bits per hidden byte",))]
    assert titles == ["held-out bits per byte", "held-out bits per hidden byte"]
    assert draw(tmp_path) == tmp_path / PICTURE


def test_the_same_metrics_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("a", "b"):
        History(tmp_path / name / METRICS).append(1, {"train/loss": 2.0, "train/rate": float("nan")})
        draw(tmp_path / name)
    assert (tmp_path / "a" / PICTURE).read_bytes() == (tmp_path / "b" / PICTURE).read_bytes()
