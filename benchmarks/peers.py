"""What the benchmarks share: peers' models in the shape of one of ours, the machine's matrix rate, rows of a record.

Importing this puts the repository's `src` on the path, so that a script runs where groundup is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from groundup.model.config import Decoder

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "records"

if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))


def absent(packages: Iterable[str]) -> list[str]:
    """Those of these packages that are not installed here; none of them is imported."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def emit(**figure: Any) -> None:
    """Print one figure as one JSON line, at once."""
    print(json.dumps(figure), flush=True)


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a file of JSON lines; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def machine(device: torch.device | str = "cpu") -> str:
    """The machine in words: processor or accelerator, how many cores, and torch."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    capability = torch.backends.cpu.get_cpu_capability()
    amx = " with AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{model} ({capability}{amx}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def bf16_is_native(device: torch.device | str = "cpu") -> bool:
    """Whether the device computes in bf16 itself, so that autocast pays."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def matrix_rate(
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    size: int | None = None,
    seconds: float = 1.0,
) -> float:
    """The best rate in FLOP/s of a product of square matrices of Gaussian numbers.

    Args:
        device: where.
        dtype: of the matrices; None: bf16 where the device multiplies it itself, else fp32 (emulated bf16 takes
            seconds for one product).
        size: of their sides; None: 8,192 on a GPU and 2,048 elsewhere.
        seconds: to spend, after two products to warm up. The generator's state is left as it was.
    """
    where = torch.device(device)
    dtype = dtype or (torch.bfloat16 if bf16_is_native(where) else torch.float32)
    size = size or (8192 if where.type == "cuda" else 2048)
    generator = torch.Generator(where).manual_seed(0)
    left, right = (torch.randn(size, size, device=where, generator=generator).to(dtype) for _ in range(2))
    with torch.no_grad():
        for _ in range(2):
            _wait(left @ right)
        best, end = 0.0, time.perf_counter() + seconds
        while best == 0.0 or time.perf_counter() < end:
            begin = time.perf_counter()
            _wait(left @ right)
            best = max(best, 2.0 * size**3 / (time.perf_counter() - begin))
    return best


def _wait(result: Tensor) -> None:
    if result.device.type != "cpu":
        result[0, 0].item()


def litgpt_pythia(config: Decoder) -> nn.Module:
    """litgpt's GPT in the family of Pythia (Biderman et al. 2023), with the layers, width and heads of one of ours.

    Parallel residual, rotary on a quarter of the channels, GELU, layer norms and biases, untied; the weights begin as
    in `litgpt pretrain`. Its forward takes tokens (B, T) and returns logits (B, T, V).
    """
    import lightning
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.pretrain import initialize_weights

    vocabulary, context = config.closed()
    shape = Config(
        name="pythia",
        block_size=context,
        vocab_size=vocabulary,
        padded_vocab_size=vocabulary,
        n_layer=config.layers,
        n_head=config.heads,
        n_embd=config.width,
    )
    net: nn.Module = GPT(shape)
    initialize_weights(lightning.Fabric(accelerator="cpu", devices=1), net, config.layers, config.width)
    return net


def transformers_twin(config: Decoder, attention: str = "sdpa") -> nn.Module:
    """The causal model of transformers whose matrices have the shapes of one of ours.

    GPT-2 for learned positions, Llama for SwiGLU, else GPT-NeoX (rotary, a feed-forward of two matrices, heads apart).
    Its forward takes tokens (B, T) and gives an output with `.logits`, and `.loss` where there are `labels`.
    """
    import transformers

    vocabulary, context = config.closed()
    common = {
        "vocab_size": vocabulary,
        "tie_word_embeddings": config.tied,
        "attn_implementation": attention,
        "use_cache": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    shape = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feedforward,
        "max_position_embeddings": context,
        "attention_bias": config.bias,
    }
    if config.positions == "learned":
        gpt2 = {"n_embd": config.width, "n_layer": config.layers, "n_head": config.heads, "n_positions": context}
        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_inner": config.feedforward}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2, **none, **common))
    if config.activation == "swiglu" or config.kv_heads not in (None, config.heads):
        llama = {"num_key_value_heads": config.groups, "mlp_bias": config.bias, "head_dim": config.channels}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **llama, **common))
    rotation = {"rope_type": "default", "rope_theta": config.rope_base, "partial_rotary_factor": 1.0}
    neox = {"hidden_act": config.activation.replace("gelu_tanh", "gelu_new"), "rope_parameters": rotation}
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**shape, **neox, use_parallel_residual=False, **common)
    )


def matrix_parameters(net: nn.Module) -> int:
    """Numbers in matrices that every position's vector is multiplied with: the output head too, tied or not."""
    return sum(
        module.weight.numel()
        for module in net.modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    )
