"""Content from a recording is data: nothing in it may act on a terminal, a page or a comment."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffprof.model.plain import clean, clean_lines, cut, width
from diffprof.model.recording import TargetInfo
from diffprof.model.report import Report, from_json, to_json
from diffprof.views import FORMATS, render, words
from diffprof.views.markdown_text import code, prose
from tests import builders

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "h3", "p", "b", "br"),
    *("ul", "li", "div", "span", "pre", "dl", "dt", "dd", "table", "tr", "th", "td", "details", "summary"),
    *("article", "header", "footer", "nav", "a", "figure", "figcaption", "code", "small", "thead", "tbody"),
    *("svg", "g", "rect", "path", "line", "text", "script"),
}  # fmt: skip


ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "style", "role"),
    *("aria-label", "viewbox", "x", "y", "x1", "x2", "y1", "y2"),
    *("width", "height", "d", "fill", "text-anchor"),
}  # fmt: skip


def hidden(text: str) -> set[str]:
    """Characters that act or don't show, line feeds aside."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}


@pytest.mark.parametrize("form", FORMATS)
def test_no_control_character_gets_through(form: str) -> None:
    assert hidden(render(builders.ugly(), form)) == set()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("build", [builders.one_of_everything, builders.ugly, builders.long_names])
def test_a_report_fits_the_screen(build: Callable[[], Report], columns: int) -> None:
    shown = render(build(), "text", columns=columns, verbose=True)
    assert [line for line in shown.splitlines() if width(line) > columns] == []


@given(st.text(st.characters(exclude_categories=[]), max_size=40))
@settings(max_examples=200, deadline=None)
def test_clean_text_is_harmless_and_keeps_what_is_visible(text: str) -> None:
    shown = clean(text)
    assert hidden(shown) <= {"\u200c", "\u200d"}
    assert clean(shown) == shown
    if text.isprintable():
        assert shown == text


def test_clean_shows_escapes_as_text() -> None:
    assert clean("\x1b[31m\r\n\t\u202e\udc80\x00") == r"\x1b[31m\r\n\t\u202e\udc80\x00"
    assert clean("目录 é 👩‍💻 a\u00a0b") == "目录 é 👩‍💻 a\u00a0b"
    assert clean_lines("a\n\tb\x07") == ["a", r"    b\x07"]
    assert clean_lines("") == [""]


def test_cut_counts_cells() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abcde…"
    assert width(cut("词" * 10, 7)) <= 7


def test_colours_are_ours_only() -> None:
    shown = render(builders.ugly(), "text", colour=True, verbose=True)
    assert re.sub(r"\x1b\[[\d;]+m", "", shown) == render(builders.ugly(), "text", verbose=True)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("name", builders.HARD)
def test_html_has_only_our_tags_and_loads_nothing(name: str) -> None:
    page = _Page()
    page.feed(render(builders.HARD[name](), "html"))
    assert page.tags <= TAGS
    assert {key for key, _ in page.attributes} <= ATTRIBUTES
    assert all(re.fullmatch(r"#[\w-]+", value or "") for key, value in page.attributes if key == "href")
    assert all("url" not in (value or "") for key, value in page.attributes if key == "style")
    shown = render(builders.HARD[name](), "html")
    assert "url(" not in shown
    script = shown.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert shown.count("<script") == 1
    assert f"script-src 'sha256-{digest}'\"" in shown, "no other may run"


def test_html_shows_markup_as_text() -> None:
    page = _Page()
    page.feed(render(builders.ugly(), "html"))
    assert "<script>alert(1)</script>" in "".join(page.text)


def test_markdown_table_keeps_its_columns() -> None:
    """A bar in a name is no column."""
    for line in render(builders.ugly(), "markdown").splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 6


def test_markdown_escapes() -> None:
    assert prose("a|b *c* _d_ [e](f) <g> @h #1 ~i~ $j$") == (
        r"a\|b \*c\* \_d\_ \[e\](f) &lt;g&gt; @<!-- -->h #<!-- -->1 \~i\~ \$j\$"
    )
    assert prose("- x") == r"\- x"
    assert prose("1. x") == r"1\. x"
    assert prose("1.5 ms") == "1.5 ms"
    assert prose("use `a_b|c`") == r"use `a_b\|c`"
    assert code("a`b|c") == r"``a`b\|c``"
    assert code("`a`") == "`` `a` ``"


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_what_was_scanned_is_said_in_one_line(kind: str) -> None:
    target = TargetInfo(spec="a.py", kind=kind, pipeline="Mine\n| row |")
    recording = builders.make_recording(target=target)
    assert r"Mine\n| row |" in words.subject(recording)
    assert r"Mine\n| row |" in " ".join(render(builders.make_report(recording=recording), "text").split("\n"))


def test_github_has_one_command_a_line() -> None:
    lines = render(builders.ugly(), "github").splitlines()
    assert len(lines) == 2
    assert all(re.match(r"::(notice|warning) [^:]*::", line) for line in lines)


def test_github_annotates_the_users_files_only() -> None:
    lines = render(builders.one_of_everything(), "github").splitlines()
    with_file = [line for line in lines if "file=" in line]
    assert len(with_file) == 1
    assert with_file[0].startswith("::notice file=my/scheduler.py,line=12,title=SYN005 ")
    assert "diffusers/schedulers/scheduling_ddim.py:448: " in lines[1]


def test_github_escapes_what_ends_a_property() -> None:
    site = builders.make_site("a,b:c%.py", 1, user_code=True)
    shown = render(builders.make_report(builders.make_finding(site=site, message="50% off")), "github")
    assert "file=a%2Cb%3Ac%25.py,line=1," in shown
    assert "::50%25 off%0A" in shown


def test_a_surrogate_in_a_name_is_stored_as_an_escape() -> None:
    stored = from_json(to_json(builders.ugly()))
    assert "\\udc80" in stored.recording.target.spec


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_five_thousand_findings_are_all_shown_or_the_cut_is_stated(form: str) -> None:
    shown = render(builders.many(5_000), form, verbose=True)
    if form == "markdown":
        assert len(shown) < 65_536, "code hosts take no longer comment"
        cut_off = int(re.search(r"Cut to fit a comment: ([\d,]+) more", shown)[1].replace(",", ""))  # type: ignore[index]
        assert shown.count("- **SYN001") + cut_off == 5_000
    else:
        marker = {"json": '"rule": "SYN001"', "sarif": '"ruleId": "SYN001"'}.get(form, ":5000")
        assert shown.count(marker) == (5_000 if form in ("json", "sarif") else 1)
    if form in ("json", "sarif"):
        json.loads(shown)


def test_text_never_cuts_a_place() -> None:
    report = builders.long_names()
    site = report.findings[0].site
    assert site
    assert f"{site.file}:{site.line}" in render(report, "text", verbose=True)
