"""The group `callback`: every kind builds, none belongs to a run's identity, and their order is the one they need."""

from __future__ import annotations

import subprocess
import sys

import lightning
import pytest

from groundup.callback import config
from groundup.core.config import groups
from groundup.core.errors import ConfigError

KINDS = {kind: cls for kind, cls in groups()["callback"].kinds.items() if cls.__module__ == config.__name__}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_builds_with_its_defaults(kind: str) -> None:
    assert isinstance(KINDS[kind]().build(), lightning.Callback)


FIRST = ["stragglers", "ema", "monitor", "recovery", "throughput", "progress", "samples", "curves"]


def test_averages_come_before_those_who_read_them_and_checkpoints_after_all() -> None:
    built = config.build({kind: KINDS[kind]() for kind in sorted(KINDS, reverse=True)})
    names = [type(callback).__name__.lower() for callback in built]
    assert names == [*FIRST, "evaluation", "checkpoint"]


def test_a_callback_from_elsewhere_stands_before_the_checkpoint() -> None:
    class Foreign:
        kind = "foreign"

        def build(self) -> lightning.Callback:
            return lightning.Callback()

    built = config.build({"checkpoint": config.Checkpoint(), "foreign": Foreign(), "ema": config.Ema()})
    assert [type(callback).__name__ for callback in built] == ["Ema", "Callback", "Checkpoint"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ema", {"decay": 1.0}),
        ("ema", {"decay": -0.1}),
        ("samples", {"prompts": []}),
        ("samples", {"temperature": -1.0}),
        ("samples", {"top_p": 1.5}),
        ("throughput", {"window": 0}),
        ("progress", {"every_seconds": 0.0}),
        ("curves", {"every": 0}),
        ("stragglers", {"every": 1}),
        ("stragglers", {"factor": 1.0}),
    ],
)
def test_a_value_that_cannot_be_is_refused(kind: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        KINDS[kind](**options)


def test_reading_the_options_imports_no_torch() -> None:
    program = "import sys, groundup.callback.config, groundup.trainer.logger_config; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
