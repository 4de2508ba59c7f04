"""Tables of where the device's time goes."""

from __future__ import annotations

from diffprof.model.recording import KernelRow
from diffprof.views.times import names_of_kinds


def rows(block: str, *kernels: str, count: int = 4) -> list[KernelRow]:
    return [
        KernelRow(name=name, op=name, family="gemm", module=f"{block}.attn.to_q", count=count, device_us=1.0)
        for name in kernels
    ]


def test_blocks_that_run_the_same_are_one_row() -> None:
    found = names_of_kinds(
        [
            *(row for n in range(19) for row in rows(f"transformer.blocks.{n}", "linear", "attention")),
            *rows("transformer.blocks.19", "linear"),
            *rows("transformer.blocks.20", "linear", "attention", count=3),
            *rows("transformer.single_blocks.0", "linear", "attention"),
        ]
    )
    assert found["transformer.blocks.0"] == found["transformer.blocks.18"] == "transformer.blocks.* x 19"
    for other in ("transformer.blocks.19", "transformer.blocks.20", "transformer.single_blocks.0"):
        assert found[other] == other


def test_kinds_that_are_as_many_are_two_rows() -> None:
    """Gemma's layers: every other one attends to a window."""
    kinds = (("linear",), ("linear", "roll"))
    found = names_of_kinds([row for n in range(26) for row in rows(f"encoder.layers.{n}", *kinds[n % 2])])
    assert found["encoder.layers.0"] == found["encoder.layers.24"] == "encoder.layers.* x 13 (as 0)"
    assert found["encoder.layers.1"] == found["encoder.layers.25"] == "encoder.layers.* x 13 (as 1)"


def test_what_ran_in_no_module_has_no_name() -> None:
    assert names_of_kinds([KernelRow(name="copy", op="copy", family="copy", count=1, device_us=1.0)]) == {
        None: None
    }
