"""A set-up that leaves speed unused."""

from diffprof.model.analyzer import Analyzer

ANALYZER = Analyzer(
    name="setup",
    prefix="SET",
    about="a set-up that leaves speed or memory unused",
    package=__name__,
    probe="probe:of_run",
    default=True,
)
