"""KRN: device memory that grows, or that is left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from msgspec.structs import replace

from diffprof.analyzers.kernels.idle_rules import IDLE_SHARE
from diffprof.analyzers.kernels.loop import LoopTimes
from diffprof.judge.rules import NoEvidence, rule
from diffprof.judge.timeline import total_us
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import Recording, Timeline

GROWTH_BYTES = 16 * 1024**2
"""Growth over the loop that rounding of the allocator does not explain."""

HEADROOM = 0.9
"""Share of the memory that a bigger batch may use: the rest goes to fragments and other processes."""


@rule("KRN009", "memory-grows", needs=("memory",))
def memory_grows(recording: Recording) -> Iterator[Finding]:
    """Device memory grows from step to step.

    What it does:
        Compares the memory in use at the end of the denoising steps. Reported when it rises in every step
        after the first, by more than 16 MiB in all. Names no line: what is kept is known by its size alone.

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
        message=f"Device memory grows by {each / 2**20:,.0f} MiB in every denoising step.",
        grade=memory.grade,
        severity=Severity.MEDIUM,
        phase="denoise",
        in_loop=True,
        count=len(later) - 1,
        per_step=1.0,
        advice="Drop or move to the host what is kept from step to step, such as a callback's latents.",
    )


@rule("KRN011", "memory-headroom", needs=("memory", "timeline"))
def memory_headroom(recording: Recording) -> Iterator[Finding]:
    """The GPU's memory would hold a larger batch, and its processors have time for one.

    What it does:
        Runs the timeline again with twice the batch, four times, and so on: as much for the host to issue,
        and kernels that take as many times longer, which is the most that they do. It goes on as long as
        memory holds it (activations grow with the batch, weights don't) and another doubling still saves 5 %
        of the time per image. Names no line: the batch is the caller's.

    Why it is slow:
        A batch shares the cost of launches, and larger kernels fill the processors better. Per image the
        time goes down until the device is busy throughout; from there on a larger batch only takes longer.

    Example:
        for prompt in prompts:
            pipe(prompt)

    Use instead:
        pipe(prompts)                                      # or num_images_per_prompt=4

    Fix safety:
        Each image has its own noise; results differ within rounding from those made one by one.
    """
    memory, timeline = recording.memory, recording.timeline
    assert memory is not None
    assert timeline is not None
    if not memory.peak_bytes or not memory.capacity_bytes or memory.weights_bytes is None:
        raise NoEvidence("how much memory there is, and how much of it weights take, is not known")
    used = memory.peak_bytes - memory.weights_bytes
    run = LoopTimes.of(recording).run
    if run.total_us <= 0.0 or run.device_busy_us > (1 - IDLE_SHARE) * run.total_us or used <= 0:
        return
    room = (memory.capacity_bytes * HEADROOM - memory.weights_bytes) / used
    times, each = 1, run.total_us
    while 2 * times <= room:
        shorter = _per_image_us(timeline, 2 * times)
        if shorter > (1 - IDLE_SHARE) * each:
            break
        times, each = 2 * times, shorter
    if times == 1:
        return
    idle = 1 - run.device_busy_us / run.total_us
    more = "memory holds no more" if 2 * times > room else f"twice that gains less than {IDLE_SHARE:.0%} more"
    yield Finding(
        rule="KRN011",
        name="memory-headroom",
        kind="memory-headroom",
        message=(
            f"The device is idle {idle:.0%} of the call. With {times} times the batch, which memory would "
            f"hold, each image takes at least {1 - each / run.total_us:.0%} less time; {more}."
        ),
        grade=timeline.grade,
        severity=Severity.INFO,
        standing=True,
        advice=f"Where several images are wanted, make {times} times as many in one call as in this one.",
    )


def _per_image_us(timeline: Timeline, times: int) -> float:
    """The longest that the call takes with a batch so many times as large, for each batch of before."""
    longer = tuple(us * times for us in timeline.device_us)
    return total_us(replace(timeline, device_us=longer)) / times
