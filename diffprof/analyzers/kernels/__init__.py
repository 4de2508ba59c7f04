"""What the GPU does, for how long, and when it is idle."""

from diffprof.model.analyzer import Analyzer

ANALYZER = Analyzer(
    name="kernels",
    prefix="KRN",
    about="what the GPU spends its time on, when it is idle, and the memory at the peak",
    package=__name__,
    probe="probe:of_run",
    watched=True,
    times_kernels=True,
    eager=False,
    default=True,
    in_traces=True,
)
