"""Networks in folders: `model.json` says which, `weights.safetensors` is its weights; it knows no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundup.core.config import from_dict, to_dict
from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.core.files import atomic_json, checksum, read_json
from groundup.model import config as _registers_the_networks  # noqa: F401
from groundup.model.parts import put
from groundup.model.stream import stream

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config
    from groundup.model.decoder import Decoder as Net
    from groundup.model.net import Net as AnyNet
    from groundup.model.options import Transformer as AnyConfig

CONFIG = "model.json"
WEIGHTS = "weights.safetensors"
REMEDY = "give a run folder of groundup, or restore it from a copy"


def save(net: AnyNet, config: AnyConfig, folder: Path) -> None:
    """Write a network so that `load` finds it; each file is replaced at once or not at all, weights first.

    Args:
        net: the network; names and dtypes are kept.
        config: what it was built from.
        folder: where to; made if need be.

    Raises:
        StorageError: the folder cannot be written.
    """
    tensors = net.state_dict()
    write(config, folder, {name: (t.dtype, t.shape) for name, t in tensors.items()}, tensors.__getitem__)


def write(
    config: AnyConfig,
    folder: Path,
    kinds: Mapping[str, tuple[torch.dtype, torch.Size]],
    tensor: Callable[[str], Tensor],
) -> None:
    """Write a network whose tensors are asked for one at a time, so that memory holds one of them.

    Args:
        config: of the network.
        folder: where to; made if need be.
        kinds: dtype and shape of each tensor.
        tensor: the tensor of a name.

    Raises:
        StorageError: the folder cannot be written.
        ValueError: a tensor is of another dtype or shape than announced.
    """
    digest = stream(Path(folder) / WEIGHTS, kinds, tensor)
    atomic_json(Path(folder) / CONFIG, {"model": to_dict(config), "weights": digest})


def load(folder: Path, device: torch.device | str = "cpu") -> Net:
    """The network of a folder on a device, in eval mode.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights are another model's.
    """
    folder = Path(folder)
    with stored(folder, device) as (config, tensor):
        with torch.device("meta"):
            net = config.build()
        net.load_state_dict({name: tensor(name) for name in net.state_dict()}, strict=True, assign=True)
    return net.eval()


def fill(net: AnyNet, folder: Path) -> None:
    """Give a network, which may be split over ranks, the weights of a folder, one at a time.

    Raises:
        CheckpointError: as `load`, and where the folder's network is another.
    """
    path = Path(folder) / WEIGHTS
    with stored(folder) as (config, tensor):
        targets = net.state_dict()
        with torch.device("meta"):
            found = {name: value.shape for name, value in config.build().state_dict().items()}
        elsewhere = getattr(getattr(net, "trunk", None), "gone", {})  # on other ranks
        expect(found, {**elsewhere, **{name: target.shape for name, target in targets.items()}}, path)
        for name, target in targets.items():
            put(target, tensor(name))


@contextmanager
def stored(folder: Path, device: torch.device | str = "cpu") -> Iterator[tuple[Config, Callable[[str], Tensor]]]:
    """The config of a folder's network and a function that reads a tensor by name, checked and ready.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights are another model's.
    """
    folder = Path(folder)
    config, path = read_config(folder), folder / WEIGHTS
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in config.build().state_dict().items()}
    try:
        file = safe_open(path, framework="pt", device=str(device))
    except FileNotFoundError:
        raise CheckpointError(str(path), "is missing", REMEDY) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(str(path), f"is damaged or cannot be read ({error})", REMEDY) from None
    with file as opened:
        found = {name: torch.Size(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        expect(found, wanted, path)
        written: Any = read_json(folder / CONFIG)
        if "weights" in written and checksum(path) != written["weights"]:  # folders of before have none
            raise CheckpointError(str(path), f"is damaged: its checksum is not that in {CONFIG}", REMEDY)
        yield config, opened.get_tensor


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


def expect(found: Mapping[str, torch.Size], wanted: Mapping[str, torch.Size], path: Path) -> None:
    """Check that tensors are those of a network, by name and shape.

    Raises:
        CheckpointError: naming the first that is missing, unknown or of another shape.
    """
    for name, shape in wanted.items():
        if name not in found:
            raise CheckpointError(str(path), f"holds another model's weights: there is no {name}", REMEDY)
        if found[name] != shape:
            shapes = f"{name} is {shape_of(found[name])} there and {shape_of(shape)} in {CONFIG}"
            raise CheckpointError(str(path), f"holds another model's weights: {shapes}", REMEDY)
    for name in found:
        if name not in wanted:
            raise CheckpointError(str(path), f"holds another model's weights: {CONFIG} has no {name}", REMEDY)


def shape_of(shape: torch.Size) -> str:
    """A shape as a user reads it."""
    return "x".join(map(str, shape))
