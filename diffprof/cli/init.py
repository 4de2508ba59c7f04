"""`diffprof init`: a configuration for this project, and a workflow."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.output import emit, say
from diffprof.model.errors import UsageError


@click.command("init")
@click.option("--workflow", is_flag=True, help="Write the workflow file as well.")
def command(workflow: bool) -> None:
    """Write [tool.diffprof] into pyproject.toml, with the pipelines that this project makes.

    Looks for functions without arguments that return a pipeline, and for scripts that run one, outside of
    tests. Prints a workflow for GitHub, and writes it with --workflow. Nothing that is there is changed.
    """
    from diffprof.guard.configuration import FILE, load_configuration
    from diffprof.guard.finding_targets import candidates
    from diffprof.guard.starting import WORKFLOW, WORKFLOW_FILE, section

    root = Path.cwd()
    place, flow = root / FILE, root / WORKFLOW_FILE
    if load_configuration(root).file == str(place.resolve()):
        raise UsageError(f"{FILE} has [tool.diffprof] already.", "Edit it: `diffprof docs guard` says how.")
    if workflow and flow.exists():
        raise UsageError(f"{WORKFLOW_FILE} is there already.", "Leave out --workflow.")
    found = list(candidates(root))
    before = place.read_text(encoding="utf-8") if place.exists() else ""
    gap = "\n" if before and not before.endswith("\n\n") else ""
    place.write_text(f"{before}{gap}{section(found)}", encoding="utf-8")
    named = ", ".join(f"{each.name} ({each.spec})" for each in found)
    say(f"[tool.diffprof] written into {FILE}: {named or 'no pipeline was found; name one there'}.")
    if workflow:
        flow.parent.mkdir(parents=True, exist_ok=True)
        flow.write_text(WORKFLOW, encoding="utf-8")
        say(f"{WORKFLOW_FILE} written.")
    else:
        say(f"A workflow, for {WORKFLOW_FILE} (--workflow writes it):")
        emit(WORKFLOW)
    say("Next: `diffprof check`, then `diffprof check --update` for what is to stay.")
