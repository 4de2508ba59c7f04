"""For which torch-tb-profiler the pages here are made."""

from __future__ import annotations

from importlib.metadata import version

PLUGIN = "torch-tb-profiler"
MADE_FOR = "0.4.3"


def another_version() -> str:
    """What to say where another version is installed; empty where it is the right one.

    Raises PackageNotFoundError, a ModuleNotFoundError, where none is.
    """
    found = version(PLUGIN)
    if found == MADE_FOR:
        return ""
    return (
        f"{PLUGIN} {found} is installed, and diffprof changes the pages of {MADE_FOR}: TensorBoard is shown "
        f"without its profiler. `pip install {PLUGIN}=={MADE_FOR}` brings them back."
    )
