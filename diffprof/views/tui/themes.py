"""Colours: two themes of diffprof's own beside Textual's, and which one was chosen last."""

from __future__ import annotations

import json
from pathlib import Path

from textual.theme import Theme

from diffprof.model.recording.whole_file import write_whole

DARK, LIGHT = "diffprof-dark", "diffprof-light"

THEMES = (
    Theme(
        name=DARK,
        primary="#6cb6ff",
        secondary="#8ddb8c",
        accent="#e3b341",
        warning="#e0a03c",
        error="#f47067",
        success="#57ab5a",
        foreground="#cdd3da",
        background="#16191d",
        surface="#1d2126",
        panel="#262b31",
        dark=True,
        variables={
            "block-cursor-background": "#2f4f73",
            "block-cursor-foreground": "#ffffff",
            "block-cursor-text-style": "none",
            "footer-background": "#1d2126",
            "footer-key-foreground": "#6cb6ff",
            "footer-description-foreground": "#9aa4af",
            "input-selection-background": "#6cb6ff 35%",
            "scrollbar": "#3a424b",
            "scrollbar-hover": "#4b5560",
            "scrollbar-active": "#6cb6ff",
            "scrollbar-background": "#1d2126",
            "scrollbar-background-hover": "#1d2126",
            "scrollbar-background-active": "#1d2126",
        },
    ),
    Theme(
        name=LIGHT,
        primary="#0a5fc2",
        secondary="#1a7f37",
        accent="#8a5a00",
        warning="#9a6700",
        error="#c0262d",
        success="#1a7f37",
        foreground="#1f2328",
        background="#ffffff",
        surface="#f3f5f7",
        panel="#e4e8ec",
        dark=False,
        variables={
            "block-cursor-background": "#0a5fc2",
            "block-cursor-foreground": "#ffffff",
            "block-cursor-text-style": "none",
            "footer-background": "#f3f5f7",
            "footer-key-foreground": "#0a5fc2",
            "footer-description-foreground": "#57606a",
            "input-selection-background": "#0a5fc2 25%",
            "scrollbar": "#b6bec7",
            "scrollbar-hover": "#98a2ad",
            "scrollbar-active": "#0a5fc2",
            "scrollbar-background": "#f3f5f7",
            "scrollbar-background-hover": "#f3f5f7",
            "scrollbar-background-active": "#f3f5f7",
        },
    ),
)


def settings_file() -> Path:
    """Where the choice is kept."""
    from platformdirs import user_config_path

    return user_config_path("diffprof") / "viewer.json"


def chosen_theme(file: Path) -> str | None:
    """The theme chosen last; None where none was, or the file can't be read."""
    try:
        theme = json.loads(file.read_text(encoding="utf-8"))["theme"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return theme if isinstance(theme, str) else None


def keep_theme(file: Path, theme: str) -> None:
    """Remember a choice; what can't be written is forgotten."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"theme": theme}).encode() + b"\n")
    except OSError:
        pass
