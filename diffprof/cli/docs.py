"""The parts of the documentation that the code prints: command reference, table of rules, exit codes.

Run `python -m diffprof.cli.docs` to write them anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from diffprof.model.errors import ExitCode
from diffprof.model.schema import write_schema

_COLUMNS = 78
_FOLDER = Path(__file__).parents[1] / "docs"


def command_reference() -> str:
    """`--help` of the group and of each command."""
    from diffprof.cli.app import COMMANDS, app

    parts = []
    for name in ("", *COMMANDS):
        path = f"diffprof {name}".strip()
        parent = click.Context(app, info_name="diffprof", terminal_width=_COLUMNS, **app.context_settings)
        if name:
            command = app.get_command(parent, name)
            assert command is not None
            context = click.Context(command, info_name=name, parent=parent, terminal_width=_COLUMNS)
            text = command.get_help(context)
        else:
            text = app.get_help(parent)
        parts.append(f"#### `{path}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def rule_table() -> str:
    """Every rule, with its one-line summary."""
    from diffprof.judge.rules import all_rules
    from diffprof.views.rule_pages import render_rules

    return render_rules(all_rules(), "markdown")


def exit_codes() -> str:
    """The exit codes with what they mean."""
    import inspect

    from diffprof.views.markdown_text import table

    source = inspect.getsource(ExitCode)
    meaning = dict(re.findall(r'(\w+) = \d+\n\s+"""(.*?)"""', source, re.DOTALL))
    rows = [(int(code), " ".join(meaning[code.name].split())) for code in ExitCode]
    return table(("status", "meaning"), rows)


def conflict_table() -> str:
    """Fixes that can't stand beside each other, and why."""
    from diffprof.judge.recipes import recipes
    from diffprof.views.markdown_text import code, table

    rows = [
        (code(key), code(other), why)
        for key, recipe in recipes().items()
        for other, why in recipe.fix.conflicts.items()
    ]
    return table(("fix", "not with", "because"), rows)


def order_table() -> str:
    """Steps that can't follow others, and why."""
    from diffprof.analyzers.quantization.order import WHY
    from diffprof.views.markdown_text import code, table

    rows = [(code(step), code(later), why) for (step, later), why in WHY.items()]
    return table(("step", "not behind", "because"), rows)


def stage_table() -> str:
    """The fixes of each stage, in the order of application."""
    from itertools import groupby

    from diffprof.judge.recipes import recipes
    from diffprof.model.fix import Stage
    from diffprof.views.markdown_text import code, table

    groups = groupby(recipes().values(), key=lambda recipe: recipe.fix.stage)
    rows = [(Stage(stage).name.lower(), ", ".join(code(r.fix.key) for r in group)) for stage, group in groups]
    return table(("stage", "fixes"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": command_reference,
    "rules": rule_table,
    "exit codes": exit_codes,
    "conflicts": conflict_table,
    "order": order_table,
    "stages": stage_table,
}


def with_blocks(text: str) -> str:
    """The text with what stands between `<!-- generated: NAME -->` and `<!-- end -->` made anew."""

    def fresh(match: re.Match[str]) -> str:
        return f"{match[1]}\n{BLOCKS[match[2]]()}{match[3]}"

    return re.sub(r"(<!-- generated: ([a-z ]+) -->).*?(<!-- end -->)", fresh, text, flags=re.DOTALL)


def pages() -> dict[str, Path]:
    """The pages that come with the package, by name."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.md"))}


if __name__ == "__main__":
    for file in pages().values():
        file.write_text(with_blocks(file.read_text(encoding="utf-8")), encoding="utf-8")
    write_schema()
