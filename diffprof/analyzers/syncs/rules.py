"""SYN: the CPU waits for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from diffprof.analyzers.syncs import advice
from diffprof.judge.fitting import gib, needed_on_device
from diffprof.judge.pricing import blocked_us
from diffprof.judge.rules import EditKind, rule
from diffprof.judge.timeline import replay
from diffprof.judge.waits import readers
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import Recording, SyncRow, steady_per_step

NEEDS = ("syncs",)


def _rows(recording: Recording, wanted: Callable[[SyncRow], bool]) -> Iterator[tuple[int, SyncRow]]:
    for index, row in enumerate(recording.syncs or ()):
        if wanted(row):
            yield index, row


def _severity(row: SyncRow) -> Severity:
    if not row.in_loop:
        return Severity.LOW
    return Severity.HIGH if row.per_step >= 1 else Severity.MEDIUM


def _finding(
    recording: Recording, code: str, name: str, index: int, row: SyncRow, message: str, **more: Any
) -> Finding:
    notes = [more.pop("cost_note", None)]
    if row.assumed is not None:
        notes.append(f"This value is unknown without weights: the run went on with {row.assumed}.")
    return Finding(
        rule=code,
        name=name,
        kind=row.kind,
        message=message,
        grade=recording.device.grade,
        severity=more.pop("severity", _severity(row)),
        site=row.site,
        phase=row.phase,
        in_loop=row.in_loop,
        count=row.count,
        per_step=row.per_step,
        first_step_only=row.first_step_only,
        cost_note=" ".join(n for n in notes if n) or None,
        evidence=Evidence(syncs=(index,)),
        **more,
    )


def _is_host_table(row: SyncRow) -> bool:
    return row.kind == "value-read" and row.owner_device == "cpu"


def _in_search(row: SyncRow) -> bool:
    """Whether the scheduler looks for the first timestep in its table."""
    functions = (row.site.function, *(frame.function for frame in row.site.chain))
    return any("_init_step_index" in function for function in functions)


def _in_scheduler(recording: Recording, row: SyncRow) -> bool:
    schedulers = {each.name for each in recording.target.components if each.role == "scheduler"}
    return row.part == "scheduler" or row.site.module in schedulers


def _read_fixes(recording: Recording, row: SyncRow) -> tuple[str, ...]:
    """Of a read, if the CPU could know the value: what a model has computed it can't. What is only stored
    may stay on the device."""
    scheduled = _in_scheduler(recording, row)
    if not row.in_loop or not row.values_known:
        stored = row.in_loop and row.kind == "device-to-host" and not scheduled and row.part != "callback"
        return ("edited-lines",) if stored else ()
    if not scheduled:
        return ("edited-lines", "host-copies")
    if _in_search(row):
        # In a copy of the scheduler, which the pipeline made for the call: with timesteps of its own.
        return ("set-begin-index",) if row.site.module else ("set-begin-index", "host-copies")
    if row.owner_device == "device" and row.owner and not row.owner.endswith(".timesteps"):
        return ("scheduler-tables-on-host",)
    return ("host-timesteps",) if row.from_timesteps is not False else ()


def _upload_fixes(recording: Recording, row: SyncRow) -> tuple[str, ...]:
    if row.in_loop and _in_scheduler(recording, row):
        return ("upload-once",) if _is_small(row) or row.constant is not False else ()
    if not _recurs(row):
        return ()
    edited = () if _sent_as_it_is(row) else ("edited-lines",)
    if _is_small(row) or row.constant:
        return (*edited, "upload-once")
    return ("host-tensors-once",) if _sent_by_denoiser(recording, row) else ()


def _sent_as_it_is(row: SyncRow) -> bool:
    """Whether it is what a model was given or keeps: that can be sent before."""
    return bool(row.owner and row.owner.endswith(")"))


def _is_small(row: SyncRow) -> bool:
    """Whether a fill kernel can write it: up to eight numbers."""
    return row.shape is not None and math.prod(row.shape) <= 8


def _sent_by_denoiser(recording: Recording, row: SyncRow) -> bool:
    """Whether a denoiser sends a host tensor that is there already, and makes none of Python numbers."""
    denoisers = {each.name for each in recording.target.components if each.role == "denoiser"}
    line = dict(row.site.excerpt).get(row.site.line, "")
    return (row.site.module or "").partition(".")[0] in denoisers and "torch.tensor(" not in line


def _readers(recording: Recording, row: SyncRow) -> Iterator[SyncRow]:
    return readers(recording, row.site.file, advice.line_of(row))


def _who(row: SyncRow) -> str:
    return f" ({row.site.module})" if row.site.module else ""


@rule("SYN001", "value-read", needs=NEEDS, edit=EditKind.READ)
def value_read(recording: Recording) -> Iterator[Finding]:
    """Python needs the value of a device tensor.

    What it does:
    Reports `.item()`, `bool()`, `int()`, `float()`, `.tolist()`, an `if` on a tensor, and a 0-d device
    tensor used as an index, slice bound or shape.

    Why it is slow:
    The value exists only when the device has run everything before it. The host waits for that, and
    launches nothing meanwhile; when it goes on, the device has run dry.

    Example:
    if sigma > 0: ...

    Use instead:
    Keep values that Python decides on in Python or in a CPU tensor (`self.sigmas = sigmas.to("cpu")` once,
    before the loop), or keep the decision on the device with `torch.where`.

    Fix safety:
    Exact: the same value is read, from the side where it already is.
    """
    for index, row in _rows(recording, lambda r: r.kind == "value-read" and not _is_host_table(r)):
        name = row.owner or row.read
        what = f"`{name}` is on the device and its value" if name else "A device value"
        where = f", in {row.site.module}" if row.site.module else ""
        message = f"{what} is read by Python ({row.op}{where}): {row.reason}"
        yield _finding(
            recording,
            "SYN001",
            "value-read",
            index,
            row,
            message,
            advice=advice.value_read(
                row, in_scheduler=_in_scheduler(recording, row), in_search=_in_search(row)
            ),
            fixes=_read_fixes(recording, row),
        )


@rule("SYN002", "host-table-device-index", needs=NEEDS, edit=EditKind.READ)
def host_table_device_index(recording: Recording) -> Iterator[Finding]:
    """A table on the CPU is indexed by a tensor on the device.

    What it does:
    Reports `table[index]` where `table` is a CPU tensor and `index` lives on the device, as schedulers do
    with `self.alphas_cumprod[timestep]`.

    Why it is slow:
    To index host memory the host needs the index, so it waits until the device has produced it: every
    step, for a number that was known before the loop began.

    Example:
    alpha_prod_t = self.alphas_cumprod[timestep]  # timestep comes from device timesteps

    Use instead:
    Index with the host's own copy of the timesteps (a Python int per step), or keep the table on the
    device when its result is only used there.

    Fix safety:
    Exact: the same entry of the same table.
    """
    for index, row in _rows(recording, _is_host_table):
        sides = f"`{row.owner}` is on the CPU and is indexed by `{row.index}`, which is on the device"
        yield _finding(
            recording,
            "SYN002",
            "host-table-device-index",
            index,
            row,
            f"{sides}: {row.reason}",
            advice=advice.host_table(row),
            fixes=_read_fixes(recording, row),
        )


@rule(
    "SYN003",
    "data-dependent-shape",
    needs=NEEDS,
    edit=EditKind.READ,
    no_edit="a result of a size that the host knows is another one, and what comes after it has to fit",
)
def data_dependent_shape(recording: Recording) -> Iterator[Finding]:
    """The shape of a result depends on device values.

    What it does:
    Reports `nonzero`, boolean-mask indexing, `masked_select`, `unique`, `torch.where(cond)` and
    `repeat_interleave` with a tensor of repeats and no `output_size`.

    Why it is slow:
    The host must know how large the result is before it can allocate it, so it waits for the count.

    Example:
    tokens = hidden_states[attention_mask.bool()]

    Use instead:
    `torch.where(mask, a, b)` or multiplication by the mask, `masked_fill`, `nonzero_static(size=)`, or
    `repeat_interleave(repeats, output_size=n)`; indexes computed once on the host, before the loop.

    Fix safety:
    Exact where the size is known beforehand.
    """
    for index, row in _rows(recording, lambda r: r.kind == "data-dependent-shape"):
        message = f"The shape of {row.op} depends on device values{_who(row)}: {row.reason}"
        yield _finding(
            recording,
            "SYN003",
            "data-dependent-shape",
            index,
            row,
            message,
            advice=advice.shape(row, in_search=_in_search(row)),
            fixes=_read_fixes(recording, row),
        )


@rule("SYN004", "device-to-host-copy", needs=NEEDS, edit=EditKind.READ)
def device_to_host_copy(recording: Recording) -> Iterator[Finding]:
    """A tensor is copied from the device to the host.

    What it does:
    Reports `.cpu()`, `.to("cpu")`, `.numpy()` of such a copy, and copies into host tensors.

    Why it is slow:
    The copy starts when everything before it has run, and the host waits for its end. The last copy of
    the finished image is unavoidable; one in the loop or in the middle of the call is not.

    Example:
    self.sigmas = self.sigmas.to("cpu")  # after it had been put on the device

    Use instead:
    Keep what the host needs on the host from the start; gather results on the device and copy once.

    Fix safety:
    Exact.
    """
    for index, row in _rows(recording, lambda r: r.kind == "device-to-host" and not r.offload):
        final = row.phase == "postprocess"
        message = (
            f"The result is copied to the host: {row.reason}"
            if final
            else f"A device tensor is copied to the host{_who(row)}: {row.reason}"
        )
        yield _finding(
            recording,
            "SYN004",
            "device-to-host-copy",
            index,
            row,
            message,
            severity=Severity.INFO if final and not row.in_loop else _severity(row),
            fact=final and not row.in_loop,
            advice='Unavoidable for an image on the host; output_type="pt" leaves it on the device.'
            if final
            else advice.to_host(row),
            fixes=() if final else _read_fixes(recording, row),
        )


@rule("SYN005", "blocking-host-to-device-copy", needs=NEEDS, edit=EditKind.UPLOAD)
def host_to_device_copy(recording: Recording) -> Iterator[Finding]:
    """A tensor is copied from the host to the device, and the host waits for it.

    What it does:
    Reports `.to(device)` of CPU tensors, `torch.tensor(values, device=device)` and like calls whose copy
    ends in a stream synchronize.

    Why it is slow:
    Without `non_blocking=True` and pinned memory the host waits until the device has reached and done the
    copy: with work queued, that is the whole queue.

    Example:
    add_time_ids = add_time_ids.to(device)

    Use instead:
    Create the tensor on the device (`torch.zeros(..., device=device)`), upload it once before any work is
    queued, or make it a buffer of the module.

    Fix safety:
    Exact.
    """
    for index, row in _rows(recording, lambda r: _is_upload(r) and not _recurs(r)):
        message = f"A host tensor is copied to the device and the host waits{_who(row)}: {row.reason}"
        yield _finding(
            recording,
            "SYN005",
            "blocking-host-to-device-copy",
            index,
            row,
            message,
            advice=advice.upload_once(row, next(_readers(recording, row), None)),
            fixes=_upload_fixes(recording, row),
        )


@rule("SYN006", "staged-copy", needs=NEEDS, edit=EditKind.UPLOAD)
def staged_copy(recording: Recording) -> Iterator[Finding]:
    """`non_blocking=True` from memory that is not pinned.

    What it does:
    Reports asynchronous copies whose host side is pageable.

    Why it is slow:
    The driver first copies the data into a pinned buffer of its own, on the host's time. It is no full
    wait, but not free, and `set_sync_debug_mode` does not see it.

    Example:
    weights.to("cuda", non_blocking=True)  # weights in ordinary memory

    Use instead:
    `pin_memory()` once for memory that is copied often, a blocking copy for memory that is copied once.

    Fix safety:
    Exact.
    """
    for index, row in _rows(recording, lambda r: r.kind == "staged-copy" and not r.offload):
        message = f"An asynchronous copy from pageable memory{_who(row)}: {row.reason}"
        yield _finding(
            recording,
            "SYN006",
            "staged-copy",
            index,
            row,
            message,
            advice="Pin the source once if it is copied often; else drop non_blocking.",
            fixes=_upload_fixes(recording, row),
        )


@rule("SYN007", "tensor-from-device-scalars", needs=NEEDS, edit=EditKind.SCALARS)
def tensor_from_device_scalars(recording: Recording) -> Iterator[Finding]:
    """A tensor is built from a Python list of device scalars.

    What it does:
    Reports `torch.tensor([t])`, `torch.Tensor([...])`, `torch.as_tensor([...])` and `new_tensor` whose
    list holds device tensors.

    Why it is slow:
    Each element is read by the host on its own: one full wait for every one of them, then an upload.

    Example:
    timesteps = torch.tensor([t] * batch_size)

    Use instead:
    `torch.stack([...])`, or `t.expand(batch_size)`, which stay on the device.

    Fix safety:
    Exact.
    """
    for index, row in _rows(recording, lambda r: r.kind == "tensor-from-device-scalars"):
        message = f"A tensor is built from device scalars, read one by one{_who(row)}: {row.reason}"
        yield _finding(
            recording,
            "SYN007",
            "tensor-from-device-scalars",
            index,
            row,
            message,
            advice=advice.from_scalars(row),
            fixes=_read_fixes(recording, row),
        )


@rule("SYN008", "upload-every-step", needs=NEEDS, edit=EditKind.UPLOAD)
def upload_every_step(recording: Recording) -> Iterator[Finding]:
    """Host data is uploaded again in every denoising step.

    What it does:
    Reports blocking host-to-device copies in the loop that recur from step to step, and says whether they
    carry the same bytes each time.

    Why it is slow:
    Each copy makes the host wait for the queue of the step before it. What is known before the loop can
    be uploaded before the loop, once.

    Example:
    rks = torch.tensor(rks, device=device)  # in scheduler.step

    Use instead:
    A device table made in `set_timesteps`, indexed by the step with a Python int; a registered buffer for
    a constant.

    Fix safety:
    Exact: the same numbers, earlier.
    """
    for index, row in _rows(recording, lambda r: _is_upload(r) and _recurs(r)):
        what = "The same host data is" if row.constant else "Host data is"
        message = f"{what} uploaded again and again in the loop{_who(row)}: {row.reason}"
        yield _finding(
            recording,
            "SYN008",
            "upload-every-step",
            index,
            row,
            message,
            advice=advice.upload_again(row, in_scheduler=_in_scheduler(recording, row)),
            fixes=_upload_fixes(recording, row),
        )


_INSTEAD_OF_WAITING = {
    "torch.cuda.empty_cache": "Remove it: memory that PyTorch keeps is used again; give it back between "
    "calls at most, where another program needs it.",
    "torch.cuda.graph": "Capture before the first call that counts, in a warm-up: a capture is paid once.",
}
"""What to do about an operation that waits without being named `synchronize`."""


@rule(
    "SYN009",
    "explicit-synchronize",
    needs=NEEDS,
    edit=EditKind.WAIT,
    no_edit="it stands outside the loop, where what comes after it may rely on it",
)
def explicit_synchronize(recording: Recording) -> Iterator[Finding]:
    """The code asks for a wait: `synchronize()`, `empty_cache()`.

    What it does:
    Reports `torch.cuda.synchronize()`, `torch.accelerator.synchronize()`, stream and event `synchronize()`,
    loops that ask a stream or an event with `query()` until the device has come to it, and
    `torch.cuda.empty_cache()`, which frees memory and waits for the device to do so. Loops over `query()` are
    seen on a simulated GPU only.

    Why it is slow:
    The host stops until the device is idle, and the device then idles until the host has caught up.

    Example:
    torch.cuda.synchronize()  # left over from timing

    Use instead:
    Remove it. CUDA events time without stopping the host; stream order is kept by `wait_event`.

    Fix safety:
    Exact, unless another thread or library relies on it.
    """
    for index, row in _rows(recording, lambda r: r.kind == "synchronize" and not r.offload):
        yield _finding(
            recording,
            "SYN009",
            "explicit-synchronize",
            index,
            row,
            f"The code waits for the device{_who(row)}: {row.reason}",
            advice=_INSTEAD_OF_WAITING.get(
                row.op, "Remove it; time with CUDA events, order work with wait_event."
            ),
        )


@rule(
    "SYN010",
    "offload-in-loop",
    needs=NEEDS,
    no_edit="offloading moves it: how the pipeline is set up decides that",
)
def offload_in_loop(recording: Recording) -> Iterator[Finding]:
    """Offloading moves weights while the pipeline runs.

    What it does:
    Reports the copies of accelerate's and diffusers' offloading hooks, one finding for all that happens
    in the loop and one for what happens outside it.

    Why it is slow:
    Weights cross the host link, far slower than device memory; a blocking copy also makes the host wait
    for the queue. In the loop this repeats every step.

    Example:
    pipe.enable_sequential_cpu_offload()

    Use instead:
    Keep the denoiser on the device where it fits (`pipe.to("cuda")`, `enable_model_cpu_offload` moves whole
    models and only outside the loop), or `enable_group_offload(use_stream=True)` with pinned memory.

    Where they do not all fit, `diffprof fit` tells what moves least.

    Fix safety:
    Exact.
    """
    too_large = _too_large(recording)
    for in_loop in (True, False):
        rows = list(_rows(recording, lambda r, inside=in_loop: r.offload and r.in_loop is inside))  # type: ignore[misc]
        if not rows:
            continue
        indexes = tuple(index for index, _ in rows)
        moved = sum(row.bytes for _, row in rows)
        _, heaviest = max(rows, key=lambda pair: pair[1].bytes)
        where = "in the denoising loop" if in_loop else "outside the loop"
        yield Finding(
            rule="SYN010",
            name="offload-in-loop",
            kind="offload",
            message=f"Offloading hooks move {moved / 2**30:.3g} GiB {where}, from {len(rows)} places.",
            grade=recording.device.grade,
            severity=Severity.HIGH if in_loop else Severity.LOW,
            site=heaviest.site,
            phase=heaviest.phase,
            in_loop=in_loop,
            count=sum(row.count for _, row in rows),
            per_step=steady_per_step(row for _, row in rows),
            first_step_only=in_loop and all(row.first_step_only for _, row in rows),
            **(
                _of_what_must_move(recording, indexes, too_large) if too_large else _of_what_may_stay(indexes)
            ),
        )


def _of_what_may_stay(rows: tuple[int, ...]) -> dict[str, Any]:
    return {
        "advice": "Keep the denoiser on the device if it fits, or offload with streams and pinned memory.",
        "fixes": ("replace-offload",),
        "evidence": Evidence(syncs=rows),
    }


def _of_what_must_move(recording: Recording, rows: tuple[int, ...], why: str) -> dict[str, Any]:
    """It costs time, which nothing saves whole."""
    timeline = recording.timeline
    blocked = None if timeline is None else blocked_us(recording, replay(timeline), rows) / 1e3
    return {
        "advice": "`diffprof fit` tells what moves least on this device: quantized weights, or groups with "
        "streams and pinned memory.",
        "blocked_ms": blocked,
        "cost_note": why,
    }


def _too_large(recording: Recording) -> str:
    """Why not all weights can stay on the device; empty where they can, or where that is not known."""
    room = recording.device.memory_bytes
    if recording.setup is None or room is None:
        return ""
    need, _ = needed_on_device(recording.setup, recording.memory)
    if need <= room:
        return ""
    return f"With all weights on the device the call needs {gib(need)} GiB; this one has {gib(room)} GiB."


@rule(
    "SYN011",
    "library-check",
    needs=NEEDS,
    no_edit="without the check what it finds would go unnoticed: only you know if it may go",
)
def library_check(recording: Recording) -> Iterator[Finding]:
    """A library function checks its result on the host.

    What it does:
    Reports the error checks of `torch.linalg` (solve, inv, cholesky, ...), and operators such as
    `multinomial` and `bincount` that look at device values before they go on.

    Why it is slow:
    The check reads a status or a maximum that the device has just computed: a full wait.

    Example:
    rhos_p = torch.linalg.solve(R, b)

    Use instead:
    The `*_ex` variants, which leave the check to the caller; a small system solved on the host, before
    the loop; a fixed `minlength`.

    Fix safety:
    Exact where the check never fails.
    """
    for index, row in _rows(recording, lambda r: r.kind == "library-check"):
        yield _finding(
            recording,
            "SYN011",
            "library-check",
            index,
            row,
            f"{row.op} checks device values on the host{_who(row)}: {row.reason}",
            advice=advice.library_check(row),
            fixes=_upload_fixes(recording, row),
        )


def _is_upload(row: SyncRow) -> bool:
    return row.kind == "host-to-device" and not row.offload


def _recurs(row: SyncRow) -> bool:
    return row.in_loop and sum(1 for n in row.by_step if n) > 1
