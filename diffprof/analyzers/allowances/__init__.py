"""What is allowed on purpose, and whether it still has to be."""

from diffprof.model.analyzer import Analyzer

ANALYZER = Analyzer(
    name="allowances",
    prefix="ALW",
    about="what is allowed on purpose, and is not there any more",
    package=__name__,
    always=True,
    in_traces=True,
)
