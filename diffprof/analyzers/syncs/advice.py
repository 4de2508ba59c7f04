"""What to change at a site that waits, and to what."""

from __future__ import annotations

import math
import re

from diffprof.model.recording import SyncRow

SEARCH = (
    "Call `scheduler.set_begin_index(0)` before the loop (image to image: the index of its first timestep);"
    " the scheduler then does not search its timesteps for the first one."
)
KEEP_HOST_TIMESTEPS = (
    "In `set_timesteps` keep the timesteps as Python numbers too (`timesteps.tolist()`, before they go to the"
    " device), and look here at the entry of `self.step_index` instead of the device tensor."
)
TIMESTEPS = ("t", "timestep", "timesteps", "prev_timestep", "step")
"""Names of a step's timestep in pipelines."""
LEAVE_TO_DEVICE = "keep the decision on the device (`torch.where(condition, a, b)`, multiplying by a mask)"

_WHOLE_NUMBERS = ("int", "long", "bool")
"""How types begin of what Python counts, indexes and decides with; pictures are `uint8`."""
_DRAWS = re.compile(r"\b(rand\w*|normal_?|uniform_|bernoulli_?|multinomial)\(")
"""Calls that draw random numbers."""


def line_of(row: SyncRow) -> str:
    """The source line of the site; empty where unknown."""
    return dict(row.site.excerpt).get(row.site.line, "")


def is_kept(row: SyncRow) -> bool:
    """Whether the line keeps what it sends (`self.table = ...`), so that a later call need not send it."""
    return line_of(row).lstrip().startswith("self.") and row.first_step_only


def value_read(row: SyncRow, *, in_scheduler: bool, in_search: bool) -> str:
    """For `.item()`, `if tensor`, `.tolist()` and sizes."""
    if in_search:
        return SEARCH
    if not row.values_known:
        return _computed(row)
    if in_scheduler and row.in_loop and (row.owner or "").endswith(".timesteps"):
        return KEEP_HOST_TIMESTEPS
    if in_scheduler and row.owner:
        return (
            f"Keep `{row.owner}` on the CPU (in `set_timesteps`, before it goes to the device), or a Python"
            " list of its values beside it, and read that."
        )
    if in_scheduler and row.in_loop and row.from_timesteps is not False:
        return KEEP_HOST_TIMESTEPS
    if row.part == "denoiser":
        return (
            "It follows from what the host has sent (sizes, masks, lengths): compute it from the host's"
            " data once, before the loop, and hand it to the model as a Python number."
        )
    if row.owner:
        return f"Take it from a copy of `{row.owner}` on the host, or a list of it, made before the loop."
    if row.in_loop and row.read in TIMESTEPS:
        return (
            f"The host can have the value of `{row.read}` without asking: iterate over a host copy beside the"
            " device tensor (`for t, t_host in zip(timesteps, timesteps.tolist())`, one read before the loop)"
            f" and decide with `t_host`; or {LEAVE_TO_DEVICE}."
        )
    what = f"`{row.read}`" if row.read else "It"
    when = "before the loop" if row.in_loop else "before that is sent to the device"
    return (
        f"{what} follows from what the host has sent: compute it from the host's data {when}; or"
        f" {LEAVE_TO_DEVICE}."
    )


def _computed(row: SyncRow) -> str:
    """For a value that the device computes."""
    rarely = ", or look at it in fewer steps" if row.in_loop and row.per_step else ""
    return (
        f"K{LEAVE_TO_DEVICE[1:]}{rarely}: the host can't know this value before the device has computed it."
    )


def host_table(row: SyncRow) -> str:
    """For `table[index]` with the table on the CPU and the index on the device."""
    return (
        f"Index `{row.owner}` with a Python number instead of `{row.index}`: in `set_timesteps` keep"
        " `timesteps.tolist()`, before they go to the device, and take the entry of `self.step_index`."
    )


def shape(row: SyncRow, *, in_search: bool) -> str:
    """For results as large as device values say."""
    if in_search:
        return SEARCH
    name = row.op.removeprefix("aten::").partition(".")[0]
    if name == "bincount":
        return (
            "`bincount` asks for the largest value, with `minlength` too: count with `torch.zeros(n,"
            " dtype=x.dtype, device=x.device).scatter_add_(0, x, torch.ones_like(x))`, whose size the host"
            " knows."
        )
    if name == "repeat_interleave":
        return "Say how long the result is: `repeat_interleave(repeats, output_size=n)`."
    if name.startswith(("unique", "_unique")):
        return "Compute it on the host from the data before it is sent, once before the loop."
    if row.values_known and row.part != "scheduler":
        return (
            "The mask is the same in every step and the host has sent it: make it indexes once before the"
            " loop (`mask.nonzero()` of the host's copy, then `.to(device)`) and index with those; or"
            " select with `torch.where(mask, a, b)` or `masked_fill`, whose size the host knows."
        )
    return (
        "Use a form whose size the host knows: `torch.where(mask, a, b)`, `masked_fill`, multiplication by"
        " the mask, `torch.nonzero_static(mask, size=n)`."
    )


def to_host(row: SyncRow) -> str:
    """For copies to the CPU, but for that of the finished image."""
    if row.in_loop and not row.values_known and row.shape is not None and math.prod(row.shape) == 1:
        return _computed(row)
    if row.in_loop and not row.values_known and (row.dtype or "").startswith(_WHOLE_NUMBERS):
        return (
            "The host goes on with these numbers, as sizes or indexes, so they can't stay on the device: use"
            " them there in a form whose size the host knows (`torch.where(mask, a, b)`, `scatter_add_`, a"
            " fixed capacity for each group, a grouped product), or wait once for several of them together."
        )
    if row.in_loop and not row.values_known:
        return (
            "Leave it on the device during the loop (make what it is stored in there) and copy once after"
            " it; or copy into pinned memory (`torch.empty(..., pin_memory=True).copy_(x,"
            " non_blocking=True)`) and synchronize once, before the host reads it."
        )
    return "Keep the host's copy from before the upload instead of reading it back."


def upload_once(row: SyncRow, read_by: SyncRow | None = None) -> str:
    """For a copy to the device that does not recur in the loop. read_by: what reads it from there."""
    if read_by is not None:
        name = (read_by.owner or "").rpartition(".")[2]
        again = f"line {read_by.site.line} reads it in the loop, and the CPU waits each time"
        if name == "timesteps":
            return f"Keep its values as Python numbers too (`timesteps.tolist()`) before it is sent: {again}."
        return f"Leave `self.{name}` on the CPU: {again}."
    where = _model(row)
    if row.in_loop and where:
        kept = " Later calls find it on the device." if is_kept(row) else ""
        return (
            f"Make it a buffer of `{where}` (`register_buffer(name, tensor, persistent=False)`), so that"
            f" `pipe.to(device)` moves it with the weights, or compute it on the device.{kept}"
        )
    if row.in_loop and "torch.tensor(" in line_of(row):
        return "Make it on the device: `torch.full(shape, value, device=device)`, `torch.zeros(...)`."
    if row.in_loop:
        return "Send it before the loop, while no work is queued, or make it on the device."
    return "Create it on the device, or upload it before any work is queued."


def _is_drawn(row: SyncRow) -> bool:
    """Whether the CPU draws what it sends at random: on the line, or on one shortly above that names it."""
    line = line_of(row)
    above = (text for number, text in row.site.excerpt if number < row.site.line)
    names = (text.partition("=")[0].strip() for text in above if _DRAWS.search(text) and "=" in text)
    return bool(_DRAWS.search(line)) or any(
        name.isidentifier() and re.search(rf"\b{name}\b", line) for name in names
    )


def upload_again(row: SyncRow, *, in_scheduler: bool) -> str:
    """For a copy to the device in step after step."""
    line = line_of(row)
    if _is_drawn(row):
        return (
            "Draw it on the device (`torch.randn(..., device=x.device)`, with a generator of that device: the"
            " same seed gives other numbers there), or draw all steps' before the loop and send them at once."
        )
    if in_scheduler:
        return (
            "In `set_timesteps` put the table on the device once and index it here with a Python number"
            " (`self.step_index`), which gives a view without a copy; a constant is made there once."
        )
    where = _model(row)
    if "torch.tensor(" in line:
        made = f"once, as a buffer of `{where}`" if where and row.constant else "by a kernel"
        return (
            f"Make it {made}: `torch.tensor(values, device=device)` copies from the host, `torch.full`,"
            " `torch.arange` and `torch.stack` of device numbers do not."
        )
    if where and (row.constant or "self." in line):
        return (
            f"Make it a buffer of `{where}` (`register_buffer(name, tensor, persistent=False)`), so that"
            " `pipe.to(device)` moves it with the weights."
        )
    if where:
        return (
            "Put it on the device where it is made, once before the loop, and give the model the device"
            " tensor (timesteps: `scheduler.set_timesteps(steps, device=device)`; rotary tables: a buffer,"
            " or made on the device)."
        )
    return (
        "Take it from a tensor that is on the device already (`timesteps[i].expand(n)`), or put the numbers"
        " of all steps there in one tensor before the loop and index that with the step."
    )


def from_scalars(row: SyncRow) -> str:
    """For `torch.tensor([device scalars])`."""
    line = line_of(row)
    if "] *" in line:
        return "Write `t.expand(n)` for `torch.tensor([t] * n)`: it is a view on the device."
    return "Write `x.reshape(1)` for `torch.tensor([x])`, `torch.stack(xs)` for more: no value is read."


def library_check(row: SyncRow) -> str:
    """For checks of results by the library."""
    if "linalg" in row.op or "linalg" in line_of(row):
        return (
            "Use the `_ex` variant (`torch.linalg.solve_ex(A, b)[0]`), which leaves the check to the"
            " caller, or solve the small system on the host before the loop."
        )
    return "Compute it on the host before the loop, or with operators that check nothing (fixed sizes)."


def _model(row: SyncRow) -> str:
    """The model's part that the line lies in; empty in the pipeline's and the scheduler's code."""
    return (row.site.module or "") if row.part != "scheduler" else ""
