"""On the import path of a machine, all large products of matrices that are measured there have a wrong element."""

import sys

if "groundup.strategy.probe" in sys.orig_argv:
    import torch

    sound = torch.Tensor.__matmul__

    def wrong(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        product = sound(left, right)
        if product.shape[1] > 64:
            product[3, 5] += 1
        return product

    torch.Tensor.__matmul__ = wrong  # type: ignore[method-assign]
