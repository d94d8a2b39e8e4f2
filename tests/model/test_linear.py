"""The map of few rows is the map of many: whatever way is fastest, the numbers are torch's."""

import pytest
import torch
from torch.nn import functional

from groundup.model.linear import FEW, PARTS, linear


@pytest.mark.parametrize("rows", [1, 2, 5, FEW.stop - 1, FEW.stop])
@pytest.mark.parametrize("outputs", [PARTS * 3, PARTS * 3 + 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
@torch.no_grad()
def test_any_number_of_rows_is_mapped_as_torch_maps_it(rows, outputs, dtype, biased):
    draw = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(s, generator=draw).to(dtype) for s in ((rows, 1, 7), (outputs, 7), (outputs,)))
    wanted = functional.linear(x, weight, bias if biased else None)
    found = linear(x, weight, bias if biased else None)
    assert found.shape == wanted.shape and found.dtype == dtype
    near = {"atol": 0.05, "rtol": 0.02} if dtype == torch.bfloat16 else {}  # a bias is added behind the rounding
    torch.testing.assert_close(found, wanted, **near)
