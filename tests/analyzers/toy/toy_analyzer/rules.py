"""What is said of the evidence."""

from collections.abc import Iterator

from diffprof.judge.rules import rule
from diffprof.model.finding import Finding
from diffprof.model.recording import Recording


@rule("TOY001", "heavy-component", needs=("toy_weights",))
def heavy(recording: Recording) -> Iterator[Finding]:
    """The heaviest component has most of the parameters.

    What it does:
        Compares the numbers of parameters.

    Why it is slow:
        It is not; this is an example.

    Example:
        pipe.unet

    Use instead:
        pipe.smaller_unet

    Fix safety:
        None.
    """
    rows = recording.section("toy_weights")
    if rows and 2 * rows[0]["parameters"] > sum(row["parameters"] for row in rows):
        yield Finding(
            rule="TOY001",
            name="heavy-component",
            kind="heavy component",
            message=f"{rows[0]['component']} has most of the parameters.",
            grade=recording.device.grade,
            advice="Take a smaller one.",
        )
