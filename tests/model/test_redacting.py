"""What is sent to others: no home, and on request no prompts, absolute paths and source."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from diffprof.model.recording import Frame, Unseen
from diffprof.model.redacting import SENT, home_free, redacted, to_send, without_home
from diffprof.model.report import Report
from diffprof.views import FORMATS, render
from tests import builders
from tests.views.tui import reports

PROMPT = "a secret fox on the moon"
SOURCE = "x = our_secret_source(y)"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("/home/alice/work/a.py", "~/work/a.py"),
        ("at /Users/alice/a.py:3", "at ~/a.py:3"),
        ("/root/a.py", "~/a.py"),
        ("file:///home/alice/a.py", "~/a.py"),
        (r"C:\Users\alice\a.py", r"~\a.py"),
        ("'/home/alice/a'", "'~/a'"),
        ("/home/alice", "~"),
        ("/usr/lib/python3/site-packages/diffusers/x.py", "diffusers/x.py"),
        ("/home/alice/.venv/lib/python3.12/site-packages/torch/a.py:7", "torch/a.py:7"),
        ("in a/home/alice", "in a/home/alice"),
        ("src/home/b.py", "src/home/b.py"),
        ("/rooted/a.py", "/rooted/a.py"),
        ("https://example.org/home/page", "https://example.org/home/page"),
        ("nothing", "nothing"),
    ],
)
def test_homes(text: str, sent: str) -> None:
    assert home_free()(text) == sent


def test_a_home_elsewhere_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/data/people/alice")
    assert home_free()("/data/people/alice/a.py and /data/people/alicea") == "~/a.py and /data/people/alicea"


def private() -> Report:
    """A report of one's own files, with everything in it that others need not see."""
    report = reports.full()
    recorded = report.recording
    site = builders.make_site(
        "/home/alice/job/paint.py",
        4,
        user_code=True,
        excerpt=((4, SOURCE),),
        chain=(Frame(file="/home/alice/job/main.py", line=9, function="main", code=SOURCE),),
    )
    target = replace(
        recorded.target,
        spec="/home/alice/job/paint.py",
        kind="script",
        args=("--prompt", PROMPT),
        call={"prompt": [PROMPT], "height": 512, "more": {"text": PROMPT}},
        options={"call": {"prompt": PROMPT}, "dtype": "float16"},
    )
    recording = replace(
        recorded,
        target=target,
        syncs=tuple(replace(row, site=site) for row in recorded.syncs or ()),
        unseen=(Unseen(what="/home/alice/job/x.so", why="it lies in /srv/alice-data/x", site=site),),
        partial=True,
        failure=f"it failed at /home/alice/job/paint.py:4\n    {SOURCE}",
        sources={"/home/alice/job/paint.py": "0" * 64},
    )
    findings = tuple(replace(each, site=site) for each in report.findings)
    edit = builders.one_of_everything().source
    return replace(
        report,
        recording=recording,
        findings=findings,
        source=edit,
        path="/home/alice/traces/20260102-030405-x",
    )


@pytest.mark.parametrize("form", sorted(SENT))
def test_what_is_sent_has_no_home(form: str) -> None:
    text = render(to_send(private(), form), form)
    assert "alice" not in text.replace("alice-data", "")
    assert "paint.py" in text


@pytest.mark.parametrize("form", FORMATS)
def test_redacted(form: str) -> None:
    text = render(
        to_send(private(), form, redact=True), form, **({"verbose": True} if form == "text" else {})
    )
    assert PROMPT not in text
    assert SOURCE not in text
    assert "alice" not in text
    assert "/srv" not in text
    assert "torch.zeros(2)" not in text, "nor what would be edited"
    assert "paint.py" in text


def test_json_is_what_is_stored_unless_redacted() -> None:
    report = private()
    assert to_send(report, "json") is report
    shown = json.loads(render(to_send(report, "json", redact=True), "json"))
    call = shown["recording"]["target"]["call"]
    assert call == {
        "prompt": [f"text of {len(PROMPT)} characters"],
        "height": 512,
        "more": {"text": f"text of {len(PROMPT)} characters"},
    }
    assert shown["recording"]["target"]["options"]["dtype"] == "float16"


def test_figures_and_choices_stay() -> None:
    report = private()
    for sent in (without_home(report), redacted(report)):
        assert sent.recording.timeline == report.recording.timeline
        assert [each.saves_ms for each in sent.findings] == [each.saves_ms for each in report.findings]
        assert sent.findings[0].grade is report.findings[0].grade
