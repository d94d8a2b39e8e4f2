"""Networks in folders: `model.json` says which, `weights.safetensors` is its weights; it knows no training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from groundup.core.config import from_dict, to_dict
from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.core.files import atomic_json, atomic_write, checksum, read_json
from groundup.model import config as _registers_the_networks  # noqa: F401

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config
    from groundup.model.decoder import Decoder as Net

CONFIG = "model.json"
WEIGHTS = "weights.safetensors"
REMEDY = "give a run folder of groundup, or restore it from a copy"


def save(net: Net, config: Config, folder: Path) -> None:
    """Write a network so that `load` finds it; each file is replaced at once or not at all, weights first.

    Args:
        net: the network; names and dtypes are kept.
        config: what it was built from.
        folder: where to; made if need be.

    Raises:
        StorageError: the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    atomic_write(Path(folder) / WEIGHTS, weights)
    atomic_json(Path(folder) / CONFIG, {"model": to_dict(config), "weights": hashlib.sha256(weights).hexdigest()})


def load(folder: Path, device: torch.device | str = "cpu") -> Net:
    """The network of a folder on a device, in eval mode.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights are another model's.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors = _read_weights(folder / WEIGHTS, device)
    with torch.device("meta"):
        net = config.build()
    expect(tensors, net.state_dict(), folder / WEIGHTS)
    written: Any = read_json(folder / CONFIG)
    if "weights" in written and checksum(folder / WEIGHTS) != written["weights"]:  # folders of before have none
        raise CheckpointError(str(folder / WEIGHTS), f"is damaged: its checksum is not that in {CONFIG}", REMEDY)
    net.load_state_dict(tensors, strict=True, assign=True)
    return net.eval()


def read_config(folder: Path) -> Config:
    """The config of a folder's network.

    Raises:
        CheckpointError: it is missing, damaged, or describes no network known here.
    """
    path = Path(folder) / CONFIG
    try:
        values: Any = read_json(path)
        config: Config = from_dict("model", values["model"])
        config.closed()
    except DataError as error:
        raise CheckpointError(error.where, error.what, REMEDY) from None
    except ConfigError as error:
        raise CheckpointError(
            str(path),
            f"describes no network known here ({error.where} {error.what})",
            "import the package that registers it first, or give another folder",
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(str(path), f"is damaged: it describes no network ({error!r})", REMEDY) from None
    return config


def expect(found: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Check that tensors are those of a network, by name and shape.

    Raises:
        CheckpointError: naming the first that is missing, unknown or of another shape.
    """
    for name, tensor in wanted.items():
        if name not in found:
            raise CheckpointError(str(path), f"holds another model's weights: there is no {name}", REMEDY)
        if found[name].shape != tensor.shape:
            shapes = f"{name} is {_shape(found[name])} there and {_shape(tensor)} in {CONFIG}"
            raise CheckpointError(str(path), f"holds another model's weights: {shapes}", REMEDY)
    for name in found:
        if name not in wanted:
            raise CheckpointError(str(path), f"holds another model's weights: {CONFIG} has no {name}", REMEDY)


def _read_weights(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device=str(device))
    except FileNotFoundError:
        raise CheckpointError(str(path), "is missing", REMEDY) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(str(path), f"is damaged or cannot be read ({error})", REMEDY) from None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
