"""A report as one page to send: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from diffprof.finding import Finding
from diffprof.recording import Site
from diffprof.report import Report
from diffprof.verdict import verdict
from diffprof.views import words
from diffprof.views.plain import clean, clean_lines, cut
from diffprof.views.sections import Table, not_checked, tables

_MOST_CODE = 400
"""Characters of a source line shown."""

_STYLE = """\
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--dim:#777;--mark:#f5c51840;--high:#c62828;--low:#777}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
body{overflow-wrap:anywhere}
h1{font-size:1.4rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.top{border-left:4px solid var(--high);padding:.2rem 1rem;background:var(--soft)}
.top.clean{border-color:#2e7d32}
.dim{color:var(--dim)}
.finding{border:1px solid var(--line);border-radius:6px;padding:.7rem 1rem;margin:.7rem 0}
.finding h3{font-size:1rem;margin:0}.code{font-family:ui-monospace,monospace}
.high,.medium{color:var(--high)}.low,.info{color:var(--low)}
pre{background:var(--soft);padding:.5rem;overflow-x:auto;margin:.5rem 0;line-height:1.35}
pre span{display:block}pre .mark{background:var(--mark);font-weight:bold}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0 0}
dt{color:var(--dim)}dd{margin:0}
table{border-collapse:collapse;display:block;overflow-x:auto}
th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line)}
"""


def _text(value: object) -> str:
    return escape(clean(value))


def _prose(value: object) -> str:
    return "<br>".join(map(escape, clean_lines(value)))


def render_html(report: Report) -> str:
    """The whole report."""
    return "".join(_page(report))


def _page(report: Report) -> Iterator[str]:
    top = verdict(report)
    recording = report.recording
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>diffprof: {_text(recording.target.spec)}</title>\n"
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n"
    )
    state = "top" if report.in_loop or recording.partial or report.unchecked else "top clean"
    yield f'<section class="{state}">\n<h1>{_prose(top.headline)}</h1>\n'
    yield f"<p><b>Why</b> {_prose(top.why)}</p>\n<p><b>Next</b> {_prose(top.next)}</p>\n</section>\n"
    yield f'<p class="dim">{_text(words.subject(recording))}<br>{_text(words.versions(recording))}<br>'
    effort = f"<br>{_text(words.effort(recording))}" if words.effort(recording) else ""
    yield f"{_text(recording.created)}{effort}</p>\n"
    yield from _findings("In the denoising loop", report.in_loop)
    yield from _findings("Outside the denoising loop", [f for f in report.findings if not f.in_loop])
    for table in tables(report):
        yield from _table(table)
    skipped = not_checked(report)
    if skipped:
        yield f"<h2>Not checked ({len(skipped):,})</h2>\n<ul>\n"
        for what, why in skipped:
            yield f"<li><b>{_prose(what)}:</b> {_prose(why)}</li>\n"
        yield "</ul>\n"
    yield "</body>\n</html>\n"


def _findings(title: str, findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    yield f"<h2>{title} ({len(findings):,})</h2>\n"
    for finding in findings:
        yield from _finding(finding)


def _finding(finding: Finding) -> Iterator[str]:
    yield '<section class="finding">\n<h3>'
    yield f'<span class="code">{_text(finding.rule)}</span> '
    yield f'<span class="{finding.severity.value}">{_text(finding.name)}</span></h3>\n'
    yield f"<p>{_prose(finding.message)}</p>\n"
    site = finding.site
    if site:
        yield f'<div class="code">{_text(words.place(site))} '
        yield f'<span class="dim">in {_text(site.function)}</span></div>\n'
        yield from _excerpt(site)
    facts = [
        ("how often", words.how_often(finding)),
        ("where", ", ".join(part for part in (site.module if site else None, words.phase(finding)) if part)),
        ("cost", words.cost(finding)),
        ("instead", finding.advice),
        ("fixes", ", ".join(finding.fixes)),
    ]
    yield "<dl>\n"
    for name, value in facts:
        if value:
            yield f"<dt>{name}</dt><dd>{_prose(value)}</dd>\n"
    yield "</dl>\n"
    if site and site.chain:
        yield "<details><summary>called from</summary>\n<ul>\n"
        for frame in site.chain:
            yield f'<li class="code">{_text(f"{frame.file}:{frame.line} in {frame.function}")}</li>\n'
        yield "</ul>\n</details>\n"
    yield "</section>\n"


def _excerpt(site: Site) -> Iterator[str]:
    if not site.excerpt:
        return
    digits = max(len(str(number)) for number, _ in site.excerpt)
    yield "<pre>"
    for number, code in site.excerpt:
        line = escape(f"{number:>{digits}} | {cut(clean(code.expandtabs(4).rstrip()), _MOST_CODE)}")
        yield f'<span class="mark">{line}</span>' if number == site.line else f"<span>{line}</span>"
    yield "</pre>\n"


def _table(table: Table) -> Iterator[str]:
    yield f"<h2>{_text(table.title)}</h2>\n<table>\n<tr>"
    yield from (f"<th>{_text(column)}</th>" for column in table.columns)
    yield "</tr>\n"
    for row in table.rows:
        yield f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>\n"
    yield "</table>\n"
    if table.note:
        yield f'<p class="dim">{_text(table.note)}</p>\n'
