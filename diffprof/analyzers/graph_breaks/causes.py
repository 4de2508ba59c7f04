"""What a graph break is about, told from Dynamo's own words: the kind that a rule looks for. Torch-free."""

from __future__ import annotations

import re

from diffprof.model.recording import GraphBreakRow

_NUMPY = re.compile(r"numpy|np\.", re.IGNORECASE)
_SIDE_EFFECT = re.compile(
    r"\bbuiltin `?(print|input|open|breakpoint)\b|logging|\blogger\b|warnings?\.warn|tqdm|progress|\bstdout\b"
    r"|reorderable_logging_functions",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"\.item\(\)|tolist\(\)|\bto_list\b|_local_scalar_dense|aten\.equal|aten\.nonzero|aten\.masked_select|unique|"
    r"data.?dependent (operator|output)|dynamic (output )?shape operator",
    re.IGNORECASE,
)
_BRANCH = re.compile(r"data.?dependent (branch|assert)|generic_jump|bool\(\) on (a )?tensor", re.IGNORECASE)
_DISABLED = re.compile(r"torch\.compiler\.disable|_dynamo\.(disable|graph_break\(|skip_frame\()", re.I)
_MAKES_OUTPUT = re.compile(r"\b[A-Z]\w*Output\s*\(")
_OUTPUT_FILES = ("diffusers/utils/outputs.py", "transformers/utils/generic.py")
_OUTPUT_METHODS = {"__init__", "__post_init__", "__new__", "__setattr__", "to_tuple"}
_CALL = re.compile(
    r"builtin|marked as skipped|c(/c\+\+)? extension|inline|method|function|call|generator|operator",
    re.IGNORECASE,
)


def kind_of(row: GraphBreakRow) -> str:
    """hook, disabled, branch, model-output, numpy, value, side-effect, call or other; the first that fits."""
    if row.in_hook:
        return "hook"
    if _DISABLED.search(row.cause):
        return "disabled"
    if _BRANCH.search(row.cause):
        return "branch"
    if _of_an_output(row):
        return "model-output"
    told = f"{row.cause} {row.context}"
    if _NUMPY.search(told):
        return "numpy"
    if _VALUE.search(told):
        return "value"
    if _SIDE_EFFECT.search(f"{told} {_line(row)}"):
        return "side-effect"
    if _CALL.search(row.cause):
        return "call"
    return "other"


def _of_an_output(row: GraphBreakRow) -> bool:
    """The break is in a method of an output class: the libraries' own, or one that is made a line above."""
    files = {row.site.file, row.raised_at.file if row.raised_at else ""}
    if files & set(_OUTPUT_FILES):
        return True
    above = row.site.chain[0].code if row.site.chain else ""
    return row.site.function in _OUTPUT_METHODS and bool(_MAKES_OUTPUT.search(above))


def _line(row: GraphBreakRow) -> str:
    """The site's own source line, where it is a call of something that only talks."""
    text = next((text for number, text in row.site.excerpt if number == row.site.line), "")
    return text if re.search(r"^\s*(print|logger|logging|warnings|\w*progress_bar)\b.*\(", text) else ""
