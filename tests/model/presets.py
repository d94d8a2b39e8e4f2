"""The presets of conf/model, read without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from groundup.core.config import from_dict
from groundup.model import config as _  # noqa: F401  # registers the kinds

FOLDER = Path(__file__).parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
KINDS = ("decoder", "encoder", "encoder_decoder")


def read(name: str) -> dict[str, Any]:
    """A preset as it is written."""
    written: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return written


def values(name: str) -> dict[str, Any]:
    """What a preset sets, and beneath it what those set that its defaults name, down to its kind."""
    own = read(name)
    (base,) = own.pop("defaults")
    return {"kind": base, **own} if base in KINDS else {**values(base), **own}


def preset(name: str, **otherwise: Any) -> Any:
    """The config of a preset; `otherwise` holds values of options that it leaves open."""
    return from_dict("model", {**otherwise, **values(name)})
