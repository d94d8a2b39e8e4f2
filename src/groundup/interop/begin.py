"""The folder whose weights a run begins with: ours as it is, one of Hugging Face's imported first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from groundup.core.config import fingerprint
from groundup.core.errors import CheckpointError
from groundup.core.files import checksum, make_folder
from groundup.interop.folder import CONFIG as THEIRS
from groundup.interop.folder import import_
from groundup.model.load import CONFIG, WEIGHTS, read_config
from groundup.model.options import Transformer

REMEDY = "give a run's folder, or one that `save_pretrained` wrote"


def beginning(model: Transformer, imported: Path) -> Transformer:
    """The config of a network that begins with the weights `model.init_from` names.

    Shape and parts are those of the folder; dropout is the config's own.

    Args:
        model: the config, whose `init_from` is a folder.
        imported: where an import of Hugging Face's folder is kept; a second run finds it there.

    Returns:
        the folder's config, with `init_from` a folder of ours and `init_hash` a hash of its weights.

    Raises:
        CheckpointError, DataError, ConfigError: there is no model there, or none that is known here.
        StorageError: an import cannot be written.
    """
    folder = Path(str(model.init_from)).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"model.init_from={model.init_from}", "is not a folder", REMEDY)
    if not (folder / CONFIG).is_file():
        if not (folder / THEIRS).is_file():
            raise CheckpointError(f"model.init_from={model.init_from}", "holds no model", REMEDY)
        folder = _import(folder, imported)
    found = read_config(folder)
    kept = {name: getattr(model, name) for name in ("dropout", "attention_dropout", "embedding_dropout")}
    return replace(found, **kept, init_from=str(folder), init_hash=checksum(folder / WEIGHTS)[:16])


def _import(folder: Path, imported: Path) -> Path:
    """Their folder as ours, imported once for what its files are now."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".safetensors"))
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    place = imported / fingerprint([str(folder.resolve()), stamp])
    make_folder(imported)
    with FileLock(imported / f".{place.name}.lock"):
        if not (place / CONFIG).is_file():
            import_(folder, place)
    return place
