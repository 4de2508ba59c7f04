"""Which linears are worth quantizing."""

from diffprof.model.analyzer import Analyzer, Option

ANALYZER = Analyzer(
    name="quantization",
    prefix="QNT",
    about="which linears are worth quantizing, by timing each shape",
    package=__name__,
    probe="probe:of_run",
    options=(
        Option(
            setting="budget_s", flag="--budget", kind="seconds", metavar="S", help="Seconds to time linears."
        ),
        Option(
            setting="min_sqnr",
            flag="--min-sqnr",
            kind="number",
            metavar="DB",
            help="Accuracy floor of a quantized layer.",
        ),
    ),
)
