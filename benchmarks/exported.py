"""A network of random weights with a real tokenizer, as a model folder of ours and as transformers' own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import peers
import torch

from groundup.core.config import from_dict
from groundup.model import config as _  # noqa: F401  # registers the decoder
from groundup.model.load import save
from groundup.tokenizer.load import load as load_tokenizer


def network(folder: Path, tiny: bool = False) -> Path:
    """A model folder with random weights and a tokenizer trained on the embedded text, and its export in `hf`."""
    from groundup.interop.folder import export

    small = ["tokenizer.vocabulary=600", "source=[topics]"] if tiny else []
    command = [sys.executable, str(peers.ROOT / "prepare.py"), f"path={folder / 'data'}", *small]
    subprocess.run(command, cwd=peers.ROOT, check=True, stdout=subprocess.DEVNULL)
    tokenizer = load_tokenizer(folder / "data" / "tokenizer")
    torch.manual_seed(0)
    shape = {"layers": 1, "width": 64, "heads": 2} if tiny else {"layers": 6, "width": 384, "heads": 6}
    net = from_dict("model", {"kind": "decoder", **shape, "context": 1024, "vocabulary": tokenizer.vocabulary}).build()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save(net, net.config, folder / "run")
    tokenizer.save(folder / "run" / "tokenizer")
    export(folder / "run", folder / "hf")
    return folder / "run"
