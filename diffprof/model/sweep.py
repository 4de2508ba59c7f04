"""One row of a sweep: the settings of a call, and what it is predicted to take."""

from __future__ import annotations

from diffprof.model.prediction import Prediction

OK, UNFIT, FAILED = "ok", "unfit", "failed"
"""Whether there is a time; unfit: the device can't run the call so; failed: the call itself did not run."""


class SweepRow(Prediction, frozen=True, kw_only=True):
    """A prediction with all of its settings. size: height x width in pixels; it, scheduler and dtype are
    empty where they are the target's own. reason: why there is no time.

    run: names the run of the pipeline that the row is priced from; took_s: how long that took, seconds.
    cost: of one call, in the currency of the price of a GPU hour. diffprof, torch, diffusers: versions.
    """

    key: str
    run: str
    target: str
    size: str = ""
    scheduler: str = ""
    dtype: str = ""
    fixes: str = ""
    status: str = OK
    reason: str = ""
    cost: float | None = None
    breaks: int | None = None
    took_s: float | None = None
    created: str = ""
    diffprof: str = ""
    torch: str = ""
    diffusers: str = ""
