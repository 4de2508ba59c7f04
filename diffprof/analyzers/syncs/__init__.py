"""Where the CPU waits for the GPU."""

from diffprof.model.analyzer import Analyzer

ANALYZER = Analyzer(
    name="syncs",
    prefix="SYN",
    about="where the CPU waits for the GPU, by line",
    package=__name__,
    watched=True,
    default=True,
    in_traces=True,
)
