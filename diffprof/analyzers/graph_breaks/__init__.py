"""Where `torch.compile` ends a graph, and what makes it compile again."""

from diffprof.model.analyzer import Analyzer, Option

ANALYZER = Analyzer(
    name="graph-breaks",
    prefix="GRB",
    about="where torch.compile ends a graph, and what makes it compile again",
    package=__name__,
    probe="probe:of_run",
    before="probe:state_before",
    options=(
        Option(
            setting="scope",
            flag="--compile-scope",
            choices=("components", "call"),
            help="Where to look for graph breaks.  [default: components]",
        ),
        Option(
            setting="vary",
            flag="--vary",
            kind="pairs",
            metavar="KEY=A,B",
            help="Values of a call argument to try for recompiles.",
        ),
    ),
)
