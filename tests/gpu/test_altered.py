"""Operations of a call as they would be in half precision."""

from __future__ import annotations

import pytest
import torch

from diffprof.gpu.altered import altered, is_cast
from tests.devices.simulated import signatures

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("half", HALVES)
def test_a_model_in_half_precision_has_one_type(half: torch.dtype) -> None:
    """A pipeline in float16 casts its VAE to float32 and back; in bfloat16 there is nothing to cast."""
    plain = signatures.meta(8, dtype=torch.float32)
    for other in HALVES:
        cast = signatures.op("_to_copy", [signatures.meta(8, dtype=other)], plain)
        assert is_cast(cast)
        made = altered(half).in_half(cast)
        assert {made.inputs[0].dtype, made.outputs[0].dtype} == {half}
        assert not is_cast(made)
