"""The command line: `python -m groundup.interop`, then `export`, `import` or `tokens`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from groundup.core.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Convert; 2 and one line where the user can put something right."""
    given = parser().parse_args(arguments)
    try:
        print(given.do(given))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; check the path and your rights", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The three ways and their options."""
    whole = argparse.ArgumentParser(prog="python -m groundup.interop", description="To and from others' forms.")
    ways = whole.add_subparsers(required=True, metavar="export | import | tokens")
    export = ways.add_parser("export", help="a model folder to a folder of Hugging Face's")
    export.add_argument("run", type=Path, help="a finished run's folder")
    export.add_argument("folder", type=Path, help="is made")
    export.add_argument("--as", dest="model_type", help="a model_type, where the network is of several (gpt2, opt)")
    export.set_defaults(do=_export)
    back = ways.add_parser("import", help="a folder of Hugging Face's to a model folder")
    back.add_argument("folder", type=Path, help="with config.json, safetensors and a tokenizer")
    back.add_argument("run", type=Path, help="is made")
    back.set_defaults(do=_import)
    tokens = ways.add_parser("tokens", help="files of token ids to a data folder")
    tokens.add_argument("files", type=Path, nargs="+", help="of Megatron, nanoGPT, llm.c or datatrove, in order")
    tokens.add_argument("folder", type=Path, help="is made")
    tokens.add_argument(
        "--tokenizer", type=Path, required=True, help="what the ids mean, as tokenizer=pretrained takes it"
    )
    tokens.add_argument("--end", help="the piece that ends a document, where it is not the tokenizer's own choice")
    tokens.add_argument("--bare", type=int, choices=(2, 4), help="bytes of an id in a .bin without index and header")
    tokens.add_argument("--source", default="tokens", help="the name of the text in data.weights")
    tokens.add_argument("--held-out", type=float, default=0.05, help="share of the documents held out (0.05)")
    tokens.add_argument("--seed", type=int, default=0, help="of that choice, as prepare.py's")
    tokens.set_defaults(do=_tokens)
    return whole


def _export(given: argparse.Namespace) -> str:
    from groundup.interop.folder import export

    family = export(given.run, given.folder, given.model_type)
    return f"{given.folder}: a {family.architecture}, for {family.opened_by} and AutoTokenizer"


def _import(given: argparse.Namespace) -> str:
    from groundup.interop.folder import import_

    config = import_(given.folder, given.run)
    return f"{given.run}: {config.parameters()['total']:,} parameters, for groundup.model.load"


def _tokens(given: argparse.Namespace) -> str:
    from groundup.interop.shards import Options, convert

    chosen = {"source": given.source, "held_out": given.held_out, "seed": given.seed}
    options = Options(**chosen, end=given.end, bare=given.bare)
    manifest = convert(given.files, given.tokenizer, given.folder, options)
    held = {split: sum(held.tokens for held in sources.values()) for split, sources in manifest.splits.items()}
    return f"{given.folder}: {held['train']:,} tokens to train on and {held['held_out']:,} held out, for data.path="


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
