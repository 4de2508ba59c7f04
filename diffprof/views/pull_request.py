"""The text of a pull request for a patch of the library: what, why, what it buys, whom it touches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffprof.model.recording.source_text import shell
from diffprof.model.units import milliseconds, plural

if TYPE_CHECKING:
    from diffprof.model.finding import Finding
    from diffprof.model.library_patch import FilePatch, PatchCheck
    from diffprof.model.recording import Site
    from diffprof.model.report import Report


def pull_request(report: Report, patch: FilePatch, checked: PatchCheck, copies: Sequence[str]) -> str:
    """Markdown. copies: methods of other files that are copies of those that change."""
    return "\n".join(
        [*_what(report, patch, copies), *_buys(report, checked), *_touches(checked), *_again(report)]
    )


def _what(report: Report, patch: FilePatch, copies: Sequence[str]) -> Iterator[str]:
    name = patch.file.rpartition("/")[2].removesuffix(".py")
    yield f"# Keep the CPU from waiting for the GPU in {name}"
    yield ""
    yield "## What does this PR do?"
    yield ""
    yield from (f"- {each[:1].upper()}{each[1:]}." for each in patch.done)
    yield ""
    yield "Before, the CPU waited for the GPU in the denoising loop:"
    yield ""
    for finding in _findings(report, patch):
        site = finding.site
        assert site is not None
        line = dict(site.excerpt).get(site.line, "").strip()
        yield f"- `{site.file}:{site.line}`, {plural(finding.count, 'time')} a call: `{line}`"
    for number, rule, why in patch.left:
        yield f"- Line {number} ({rule}) is left as it is: {why}."
    if copies:
        yield ""
        yield f"`make fix-copies` carries it on to {', '.join(copies)}."
    yield ""


def _findings(report: Report, patch: FilePatch) -> list[Finding]:
    """Those that the patch is for: their sites, or the pipeline that called them, lie in its file."""
    found = []
    for finding in report.in_loop:
        site = finding.site
        if site is None or not finding.rule.startswith("SYN"):
            continue
        files = [site.file, *(frame.file for frame in site.chain if "/pipelines/" in patch.file)]
        if patch.file == site.file or (
            "_init_step_index" in site.function + _above(site) and patch.file in files
        ):
            found.append(finding)
    return found


def _above(site: Site) -> str:
    return " ".join(frame.function for frame in site.chain)


def _buys(report: Report, checked: PatchCheck) -> Iterator[str]:
    yield "## What does it buy?"
    yield ""
    if checked.waits is not None:
        device = report.recording.device
        yield f"{report.recording.target.pipeline} on {device.name}, {device.grade}:"
        yield ""
        yield "| | before | after |"
        yield "| --- | --- | --- |"
        yield f"| waits in the denoising loop, a call | {checked.waits[0]} | {checked.waits[1]} |"
        if checked.ms is not None:
            yield f"| one call | {milliseconds(checked.ms[0])} | {milliseconds(checked.ms[1])} |"
        yield ""
        yield "A wait costs most where little work is queued: small pictures, fast GPUs, compiled models."
    else:
        yield "Not timed: the target can't be built again."
    yield ""


def _touches(checked: PatchCheck) -> Iterator[str]:
    yield "## Does it change the output?"
    yield ""
    ran = [each for each in checked.pipelines if not each.error]
    same = sum(each.bit_equal for each in ran)
    yield (
        f"No: {plural(len(ran), 'tiny pipeline')} with random weights that run the changed file give the "
        "same bits with the patch as without."
        if same == len(ran)
        else f"YES: only {same} of {len(ran)} pipelines give the same bits."
    )
    yield "No model changes, so no graph of `torch.compile` does."
    yield ""
    yield "| pipeline | waits in the loop before | after | output |"
    yield "| --- | --- | --- | --- |"
    for each in checked.pipelines:
        same_bits = each.error or ("bit-identical" if each.bit_equal else "CHANGED")
        yield f"| {each.name} | {each.waits[0]} | {each.waits[1]} | {same_bits} |"
    yield ""


def _again(report: Report) -> Iterator[str]:
    target, device = report.recording.target, report.recording.device
    scheduler = target.options.get("scheduler")
    more = f" --scheduler {shell(str(scheduler))}" if scheduler else ""
    more += f" --steps {steps}" if (steps := target.options.get("steps")) else ""
    yield "## How to reproduce"
    yield ""
    yield "```bash"
    yield "pip install diffprof"
    yield f"diffprof scan {shell(target.spec)}{more} --device {shell(device.spec)}"
    yield "diffprof fix --library"
    yield "```"
    yield ""
