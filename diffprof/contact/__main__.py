"""`python -m diffprof.contact OUT/`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from diffprof.contact.parts import PARTS, TOTAL_S


@click.command()
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1, or cpu for a rehearsal.")
@click.option("--short", is_flag=True, help="Tiny models and few shapes; on the CPU always.")
@click.option("--part", "parts", multiple=True, type=click.Choice([p.key for p in PARTS]), help="Only this.")
@click.option("--seconds", default=TOTAL_S, show_default=True, help="For all parts together.")
@click.option(
    "--requirements", is_flag=True, help="List the wheels that a machine with PyTorch needs, and end."
)
@click.option("--child", hidden=True)
@click.option("--beside", hidden=True)
def main(
    out: Path | None,
    device: str,
    short: bool,
    parts: tuple[str, ...],
    seconds: float,
    requirements: bool,
    child: str | None,
    beside: str | None,
) -> None:
    """Try what diffprof claims about CUDA on this machine's GPU, and write OUT/contact.html and contact.json.

    Eight parts, the most important first, each with a time of its own, nine minutes in all. What was found is
    stored item by item; called again with the same OUT, it goes on where it was stopped. No network, no
    weights. The exit code is 0 where every part came to its end.
    """
    if requirements:
        from diffprof.contact.wheels import needed

        for name, version in needed():
            click.echo(f"{name}=={version}")
        return
    if out is None:
        raise click.UsageError("Say where the report goes: python -m diffprof.contact OUT/")
    from diffprof.contact.conduct import child as in_child
    from diffprof.contact.conduct import conduct, place_of
    from diffprof.model.errors import DiffprofError

    try:
        place = place_of(device, beside, short or device == "cpu")
    except DiffprofError as error:
        raise click.ClickException(f"{error}\n{error.hint or ''}".rstrip()) from error
    if child is not None:
        in_child(out, place, child, seconds)
        return
    unfinished = conduct(out, place, parts, seconds, lambda line: click.echo(line, err=True))
    click.echo(f"{out / 'contact.html'}: {len(parts or PARTS) - unfinished} parts finished")
    sys.exit(1 if unfinished else 0)


if __name__ == "__main__":
    main(prog_name="python -m diffprof.contact")
