"""A report is data: nothing in it becomes code, and what it names is not run without asking."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from diffprof.judge.recipes import recipes
from diffprof.judge.registry import owner
from diffprof.judge.rules import all_rules, judge
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Skipped
from diffprof.model.recording import Recording
from diffprof.model.recording.invariants import broken
from diffprof.model.recording.source_text import NotAName, dotted, quoted, shell
from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.views.optimized_source import optimized_source
from tests import builders
from tests.judge.test_rules_registry import examples

CANARY = "canary_in_a_report"
PAYLOADS = (
    f"unet\n{CANARY}()\n",
    f"unet;{CANARY}()",
    f"unet.x({CANARY}())",
    f'x", {CANARY}(), "y',
    f"x', {CANARY}(), 'y",
    f'"""\n{CANARY}()\n"""',
    f"{CANARY}.{CANARY}",
    f"\\\n{CANARY}()",
)


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in plain data texts are, keys of objects among them."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from texts(item, (*path, key))
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from texts(item, (*path, n))


def with_text(data: Any, path: tuple[Any, ...], text: str) -> Any:
    """The data with a text, or the key of one that is no text, replaced."""
    head, *rest = path
    copy = dict(data) if isinstance(data, dict) else list(data)
    if rest:
        copy[head] = with_text(copy[head], tuple(rest), text)
    elif isinstance(copy[head], str):
        copy[head] = text
    else:
        copy[text] = copy.pop(head)
    return copy


def hostile(recording: Recording, turn: int) -> Iterator[Recording]:
    """The recording with a payload in one kind of place after another: in every text of a kind at once."""
    plain = msgspec.to_builtins(recording)
    kinds: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for path in texts(plain):
        kinds.setdefault(tuple("*" if isinstance(each, int) else each for each in path), []).append(path)
    for n, paths in enumerate(kinds.values()):
        changed = plain
        for path in paths:
            with suppress(KeyError):  # a key above it has been replaced
                changed = with_text(changed, path, PAYLOADS[(n + turn) % len(PAYLOADS)])
        with suppress(msgspec.ValidationError):
            made = msgspec.convert(changed, Recording)
            if broken(made) is None:
                yield made


@functools.cache
def acting(source: str) -> set[str]:
    """Names that do something in a piece of source, whatever stands in its literals and comments."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {
        alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    return names


def lines(code: Code) -> str:
    return "\n".join([*code.imports, code.optimize, code.call, code.around])


def codes(recording: Recording, findings: Sequence[Finding]) -> Iterator[tuple[str, Code]]:
    """Of every fix of the analyzers that found these, whether it is for them or not."""
    analyzers = {RULES[finding.rule].analyzer for finding in findings}
    for key, recipe in RECIPES.items():
        if owner(recipe.code.__module__).name in analyzers:
            code = recipe.written(recording, findings, shims=True)
            if isinstance(code, Code):
                yield key, code


UNMADE = {"dynamic-shapes", "mark-dynamic", "fuse-lora", "vae-unsliced", "edited-lines", "tiny-vae"}
"""Fixes for which no example of a rule has enough evidence; `edited-lines` needs rows of real lines and has
a test of its own; the code of `tiny-vae` names one of four checkpoints, and nothing of the report."""
RECIPES = recipes()
RULES = {rule.code: rule for rule in all_rules()}


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith("KRN")])
def test_no_text_of_a_report_becomes_code(rule: str) -> None:
    recorded = examples(RULES[rule].analyzer, "BAD")[rule]
    findings = judge(recorded)[0]
    for recording in hostile(recorded, int(rule[3:])):
        for judged in (findings, judge(recording)[0]):
            for key, code in codes(recording, judged):
                assert CANARY not in acting(lines(code)) | acting(code.definitions), (key, code)


def test_the_examples_make_the_code_of_nearly_every_fix() -> None:
    made = set()
    for rule in RULES.values():
        recorded = examples(rule.analyzer, "BAD")[rule.code]
        made |= {key for key, _ in codes(recorded, judge(recorded)[0])}
    assert set(RECIPES) - made <= UNMADE


@pytest.mark.nightly
def test_no_text_of_a_row_becomes_code_of_edited_lines() -> None:
    scanned = scan_target("corpus:z-image-inpaint", device="sim:a100-80gb", analyzers=("syncs",)).recording
    rows = [row for row in scanned.syncs or () if row.in_loop and "/pipelines/" in row.site.file]
    plain = examples("syncs", "BAD")["SYN001"]
    made = 0
    for row in rows:
        recording = replace(plain, syncs=(row,))
        findings = judge(recording)[0]
        made += "edited-lines" in dict(codes(recording, findings))
        for changed in hostile(recording, made):
            for judged in (findings, judge(changed)[0]):
                for key, code in codes(changed, judged):
                    assert CANARY not in acting(lines(code)) | acting(code.definitions), (key, code)
    assert made


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_of_a_report_acts_in_optimized_py(payload: str) -> None:
    from diffprof.model.fix import Outcome, PlanStep, Safety, Status

    told = {"fix": payload, "title": payload, "safety": Safety.EXACT}
    step = PlanStep(stage=10, **told)
    kept = Outcome(status=Status.KEPT, why=payload, written=Code(optimize="pipe.enable_x()"), **told)
    plain = msgspec.to_builtins(builders.one_of_everything().recording)
    plain["target"] = {**plain["target"], "spec": payload, "pipeline": payload}
    plain["environment"] = {"diffprof": payload, "python": payload, "packages": {"torch": payload}}
    report = Report(recording=msgspec.convert(plain, Recording), path=f"/x/{payload}")
    assert CANARY not in acting(optimized_source(report, [step], [kept]))


def test_a_hostile_component_of_a_builtin_target_is_not_followed() -> None:
    recorded = examples("setup", "BAD")["SET010"]
    assert isinstance(RECIPES["channels-last"].written(recorded, judge(recorded)[0]), Code)
    assert recorded.setup is not None
    parts = tuple(replace(part, name="unet; import os; os.system('id')") for part in recorded.setup.parts)
    recording = replace(recorded, setup=replace(recorded.setup, parts=parts))
    code = RECIPES["channels-last"].written(recording, judge(recorded)[0])
    assert isinstance(code, Skipped)
    assert "is no name of a component" in code.why


@pytest.mark.parametrize("name", ["unet", "prior_pipe.prior", "vae", "größe"])
def test_names(name: str) -> None:
    assert dotted(name) == name


@pytest.mark.parametrize(
    "name", ["", "a.", ".a", "a b", "a;b", "a()", "a\n", "1a", "class", "a.__class__", "__x", "a-b", "a["]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(NotAName):
        dotted(name)


@pytest.mark.parametrize("text", ["a", "a'b", 'a"b', "a\\", "\n", "\u2028", "😀", "\ud800", "'\"", ""])
def test_literals(text: str) -> None:
    assert ast.literal_eval(quoted(text)) == text
    assert quoted("to_q.0") == '"to_q.0"'


def test_words_of_a_shell() -> None:
    import shlex

    for word in ("plain.py", "a b.py", "x; rm -rf ~", "$(id)", "`id`", "-rf"):
        assert shlex.split(f"diffprof fix --patch {shell(word)}")[-1] == word
