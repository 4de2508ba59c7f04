"""KRN: device memory that grows, or that is left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from diffprof.analyzers.kernels.idle_rules import IDLE_SHARE
from diffprof.finding import Finding, Severity
from diffprof.recording import Recording
from diffprof.rules import NoEvidence, rule

GROWTH_BYTES = 16 * 1024**2
"""Growth over the loop that rounding of the allocator does not explain."""

HEADROOM = 0.9
"""Share of the memory that a bigger batch may use: the rest goes to fragments and other processes."""


@rule("KRN009", "memory-grows", needs=("memory",))
def memory_grows(recording: Recording) -> Iterator[Finding]:
    """Device memory grows from step to step.

    What it does:
        Compares the memory in use at the end of the denoising steps. Reported when it rises in every step
        after the first, by more than 16 MiB in all.

    Why it is slow:
        Something is kept that should be dropped: intermediate latents, attention maps, a callback's copies.
        The allocator goes to the driver for more (a sync each time), and long runs end out of memory.

    Example:
        def callback(pipe, step, t, kwargs):
            history.append(kwargs["latents"])              # stays on the device

    Use instead:
        history.append(kwargs["latents"].to("cpu", non_blocking=True))   # or every tenth step

    Fix safety:
        Dropping or moving what is kept does not change the image.
    """
    memory = recording.memory
    assert memory is not None
    later = memory.by_step[1:]
    if len(later) < 2 or any(b <= a for a, b in pairwise(later)):
        return
    grown = later[-1] - later[0]
    if grown < GROWTH_BYTES:
        return
    each = grown / (len(later) - 1)
    yield Finding(
        rule="KRN009",
        name="memory-grows",
        kind="memory-grows",
        message=f"Device memory grows by {each / 1e6:,.0f} MB in every denoising step.",
        grade=memory.grade,
        severity=Severity.MEDIUM,
        phase="denoise",
        in_loop=True,
        count=len(later) - 1,
        per_step=1.0,
        advice="Drop or move to the host what is kept from step to step, such as a callback's latents.",
    )


@rule("KRN011", "memory-headroom", needs=("memory",))
def memory_headroom(recording: Recording) -> Iterator[Finding]:
    """The GPU's memory would hold a larger batch, and its processors have time for one.

    What it does:
        Compares the peak with the memory there is: activations grow with the batch, weights don't. Reported
        where at least twice the batch fits while the device is idle for 5 % of the call or more.

    Why it is slow:
        A batch shares the cost of launches, and larger kernels fill the processors better. Per image the
        time goes down until the device is busy throughout.

    Example:
        for prompt in prompts:
            pipe(prompt)

    Use instead:
        pipe(prompts)                                      # or num_images_per_prompt=4

    Fix safety:
        Each image has its own noise; results differ within rounding from those made one by one.
    """
    memory, timing = recording.memory, recording.timing
    assert memory is not None
    if not memory.peak_bytes or not memory.capacity_bytes or memory.weights_bytes is None:
        raise NoEvidence("how much memory there is, and how much of it weights take, is not known")
    busy = timing.device_busy if timing else None
    if busy is None:
        raise NoEvidence("how busy the device is was not measured")
    used = memory.peak_bytes - memory.weights_bytes
    if busy > 1 - IDLE_SHARE or used <= 0:
        return
    times = int((memory.capacity_bytes * HEADROOM - memory.weights_bytes) / used)
    if times < 2:
        return
    yield Finding(
        rule="KRN011",
        name="memory-headroom",
        kind="memory-headroom",
        message=f"Memory would hold {times} times the batch; the device is idle {1 - busy:.0%} of the call.",
        grade=memory.grade,
        severity=Severity.INFO,
        advice="Where several images are wanted, make them in one batch.",
    )
