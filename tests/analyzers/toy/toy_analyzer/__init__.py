"""An analyzer as another package would bring it: it counts the parameters of each component."""

from diffprof.model.analyzer import Analyzer, Column, Listing, Option

ANALYZER = Analyzer(
    name="toy",
    prefix="TOY",
    about="components with many parameters",
    package=__name__,
    probe="probe:weigh",
    options=(Option(setting="least", flag="--least-parameters", kind="count", help="Of a component."),),
    listing=Listing(
        section="toy_weights",
        title="Heavy parts",
        columns=(Column("component", "component"), Column("parameters", "parameters", right=True)),
    ),
)
