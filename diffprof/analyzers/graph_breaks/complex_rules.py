"""GRB015: complex numbers in compiled code, which Inductor leaves to ATen's kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from diffprof.judge.rules import rule
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import ComplexRow, Recording

NOT_PRICED = "Not priced: what the fused kernel would take is not modelled."

_SHOWN = 5
"""Names of operations in a message."""


@rule(
    "GRB015",
    "complex-numbers",
    needs=("complex_numbers",),
    no_edit="in real numbers it is written otherwise, and may round otherwise",
)
def complex_numbers(recording: Recording) -> Iterator[Finding]:
    """Compiled code computes with complex tensors, for which Inductor makes no kernels.

    What it does:
    Reports lines whose operations read or write complex tensors in a captured graph, as rotary embeddings by
    `torch.view_as_complex` and `torch.polar` do.

    Why it is slow:
    The graph stays whole, but Inductor has no code for complex numbers: an operation with a complex input or
    output becomes a call of ATen's own kernel (`unsupported_input_tensor` and
    `fallback_node_due_to_unsupported_type`, torch/_inductor/lowering.py:2640 and :2691 in 2.13; graph.py:1881
    asks them for each node). `view_as_complex` is such a call in any case (lowering.py:3683). Nothing is
    fused with it: each is a launch, and its operands go through memory. Inductor warns of it once
    (lowering.py:2632): "Performance may be worse than eager". The sum of two complex tensors is the
    exception: it is computed as real numbers (decomposition.py:555).

    Example:
    x = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * freqs  # freqs from torch.polar

    Use instead:
    The rotation in real numbers, with tables of cosines and sines:
    `a, b = x.unflatten(-1, (-1, 2)).unbind(-1)`, then
    `torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)`. Where the model's library has such
    a variant (`apply_rotary_emb(..., use_real=True)` in diffusers), its processor can take that one.

    Fix safety:
    Numeric: the same products and sums, in one kernel that may round them once instead of twice.
    """
    functions: dict[tuple[str, str], list[ComplexRow]] = {}
    for row in recording.complex_numbers or ():
        functions.setdefault((row.site.file, row.site.function), []).append(row)
    for rows in functions.values():
        # The line of a function with most of them stands for it.
        row = max(rows, key=lambda each: (each.per_step, sum(each.ops.values())))
        per_step = sum(sum(each.ops.values()) * each.per_step for each in rows)
        yield Finding(
            rule="GRB015",
            name="complex-numbers",
            kind="complex numbers",
            message=f"Compiled, {row.site.function} leaves complex numbers to ATen's kernels: {_named(rows)}."
            " Nothing is fused with them.",
            grade=row.grade,
            severity=Severity.MEDIUM if per_step else Severity.LOW,
            site=row.site,
            phase="denoise" if per_step else row.phase,
            in_loop=per_step > 0,
            count=sum(sum(each.ops.values()) * each.calls for each in rows),
            per_step=per_step,
            cost_note=NOT_PRICED,
            advice="Rotate with cosines and sines, in real numbers, and keep the table as these two.",
        )


def _named(rows: Sequence[ComplexRow]) -> str:
    """The operations, the most frequent first, and the components."""
    times: Counter[str] = Counter()
    for row in rows:
        times.update(row.ops)
    names = [name for name, _ in times.most_common()]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} ({', '.join(dict.fromkeys(row.component for row in rows))})"
