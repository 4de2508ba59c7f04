"""Edits of the user's own source: what changes, what stays byte for byte, what is refused."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffprof.judge.rules import all_rules
from diffprof.judge.source_edit.patch import make_patch, write_patch
from diffprof.model.errors import UsageError
from diffprof.model.fix import Plan
from tests.builders import make_report
from tests.tuning.source_edit.reported import reported

SIGMAS = {"owner": "scheduler.sigmas", "owner_device": "device"}

CORPUS: dict[str, tuple[str, list[tuple[str, str, dict[str, Any]]], list[str]]] = {
    "a scheduler's table": (
        "class Mine(Euler):\n"
        "    def set_timesteps(self, n, device=None):  # why not\n"
        "        self.sigmas = torch.cat([a, b]).to( device = device )  # on the GPU\n"
        "        self.timesteps = t.to(device)\n"
        "\n"
        "    def step(self, out, t, sample):\n"
        "        return float(self.sigmas[self.i])\n"
        "\n"
        "class Other:\n"
        "    def f(self): self.sigmas = x.to(device)\n",
        [("SYN001", "float(self.sigmas", SIGMAS)],
        [
            "-        self.sigmas = torch.cat([a, b]).to( device = device )  # on the GPU",
            '+        self.sigmas = torch.cat([a, b]).to( device = "cpu" )  # on the GPU',
        ],
    ),
    "a table moved with cuda() keeps its type": (
        "class A:\n    def s(self):\n        self.sigmas = x.cuda()\n        self.sigmas = y.to('cuda:0', torch.float32)\n"
        "    def step(self): return self.sigmas[0].item()\n",
        [("SYN001", ".item()", SIGMAS)],
        [
            "-        self.sigmas = x.cuda()",
            "-        self.sigmas = y.to('cuda:0', torch.float32)",
            "+        self.sigmas = x.cpu()",
            '+        self.sigmas = y.to("cpu", torch.float32)',
        ],
    ),
    "two factories on a line, nested": (
        "async def f(x):\n    return g(torch.zeros(3,).to(x.device), h(torch.full((2, 2), 1.0).cuda()))  # both\n",
        [("SYN005", "torch.zeros", {"kind": "h2d"})],
        [
            "-    return g(torch.zeros(3,).to(x.device), h(torch.full((2, 2), 1.0).cuda()))  # both",
            '+    return g(torch.zeros(3, device=x.device,), h(torch.full((2, 2), 1.0, device="cuda")))  # both',
        ],
    ),
    "what gives other numbers elsewhere stays": (
        "x = torch.randn(3).to(device)\n",
        [("SYN005", "randn", {"kind": "h2d"})],
        [],
    ),
    "an explicit wait, alone in its block and among others": (
        "for t in ts:\n\tif debug:\n\t\ttorch.cuda.synchronize()  # time it\n\tx = 1; torch.cuda.synchronize(); y = 2\n",
        [("SYN009", "time it", {}), ("SYN009", "x = 1", {})],
        [
            "-\t\ttorch.cuda.synchronize()  # time it",
            "-\tx = 1; torch.cuda.synchronize(); y = 2",
            "+\t\tpass  # time it",
            "+\tx = 1; y = 2",
        ],
    ),
    "a print over several lines": (
        "@decorated\ndef callback(pipe, i, t, kwargs):\n    print(\n        f'{t} é',  # shown\n        t.item(),\n    )\n"
        "    return kwargs\n",
        [("SYN001", "t.item()", {})],
        ["-    print(", "-        f'{t} é',  # shown", "-        t.item(),", "-    )"],
    ),
    "what a distribution draws is no model's output": (
        "def loop(self):\n    a = Normal(0, 1).sample()\n",
        [("GRB003", "Normal", {})],
        [],
    ),
    "one edit within another": (
        "def loop(self):\n    a = unet(torch.zeros(2).to(device)).sample\n",
        [("GRB003", "unet", {}), ("SYN005", "unet", {})],
        [
            "-    a = unet(torch.zeros(2).to(device)).sample",
            "+    a = unet(torch.zeros(2, device=device), return_dict=False)[0]",
        ],
    ),
    "lines of a log; all of a block": (
        "def callback(pipe, i, t, kwargs):\n    if i:\n        logger.info('%s', t.item())\n        print(t)\n"
        "    return kwargs\n",
        [("SYN001", "logger", {}), ("SYN001", "print", {})],
        ["-        logger.info('%s', t.item())", "-        print(t)", "+        pass"],
    ),
    "a print that draws random numbers stays": (
        "def callback(pipe, i, t, kwargs):\n    print(torch.randn(2), t.item())\n    return kwargs\n",
        [("SYN001", "t.item()", {})],
        [],
    ),
    "a print that assigns stays": (
        "def callback(pipe, i, t, kwargs):\n    print(a := t.item())\n    return kwargs\n",
        [("SYN001", "t.item()", {})],
        [],
    ),
    "a print into a file stays": (
        "def callback(pipe, i, t, kwargs):\n    print(t.item(), file=out)\n    return kwargs\n",
        [("SYN001", "t.item()", {})],
        [],
    ),
    "a warning stays": (
        "def callback(pipe, i, t, kwargs):\n    logger.warning(t.item())\n    return kwargs\n",
        [("SYN001", "t.item()", {})],
        [],
    ),
    "a model's output": (
        "def loop(self):\n    noise = self.unet(\n        x,\n        t,\n    ).sample\n    a = b(c).sample; d = e(f, return_dict=True).sample\n",
        [("GRB003", ").sample", {}), ("GRB003", "a = b", {})],
        [
            "-    ).sample",
            "-    a = b(c).sample; d = e(f, return_dict=True).sample",
            "+        return_dict=False,",
            "+    )[0]",
            "+    a = b(c, return_dict=False)[0]; d = e(f, return_dict=False)[0]",
        ],
    ),
}


def patch_of(tmp_path: Path, source: bytes, marks: list[tuple[str, str, dict[str, Any]]]) -> Any:
    file = tmp_path / "mine.py"
    file.write_bytes(source)
    return make_patch(reported(file, marks), Plan(), file)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_what_was_meant_changes(name: str, end: str, tmp_path: Path) -> None:
    source, marks, expected = CORPUS[name]
    patch = patch_of(tmp_path, source.replace("\n", end).encode(), marks)
    changed = [
        line for line in patch.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert changed == expected
    ast.parse(patch.after.decode())
    assert patch.after.count(b"\r") == (patch.after.count(b"\n") if end == "\r\n" else 0)
    assert bool(patch.done) == bool(expected)
    assert bool(patch.left) != bool(expected)


@pytest.mark.parametrize("name", [name for name, (_, _, expected) in CORPUS.items() if expected])
def test_edits_change_nothing_on_their_own_output(name: str, tmp_path: Path) -> None:
    source, marks, _ = CORPUS[name]
    once = patch_of(tmp_path, source.encode(), marks)
    text = once.after.decode()
    still = [mark for mark in marks if mark[1] in text]
    again = patch_of(tmp_path, once.after, still)
    assert again.diff == ""


def test_a_coding_cookie_and_a_missing_last_newline_stay(tmp_path: Path) -> None:
    source = "# -*- coding: latin-1 -*-\nname = 'é'\nx = torch.ones(2).to(device)".encode("latin-1")
    patch = patch_of(tmp_path, source, [("SYN005", "torch.ones", {"kind": "h2d"})])
    assert patch.after == source.replace(b"torch.ones(2).to(device)", b"torch.ones(2, device=device)")


# --- refusals ------------------------------------------------------------------------------------------


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = torch.ones(2).to(device)\n")
    report = reported(file, [("SYN005", "ones", {})])
    patch = make_patch(report, Plan(), file)
    backup = write_patch(patch)
    assert backup.read_text() == "x = torch.ones(2).to(device)\n"
    assert file.read_text() == "x = torch.ones(2, device=device)\n"
    with pytest.raises(UsageError, match="changed since the scan") as caught:
        make_patch(report, Plan(), file)
    assert "Scan again" in caught.value.hint
    with pytest.raises(UsageError, match="changed since its diff"):
        write_patch(patch)
    file.write_bytes(patch.before)
    assert write_patch(patch).name == "mine.py.orig.2", "a backup is never overwritten"


def test_installed_packages_are_never_edited(tmp_path: Path) -> None:
    file = tmp_path / "site-packages" / "mine.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    with pytest.raises(UsageError, match="installed package"):
        make_patch(make_report(), Plan(), file)


def test_the_standard_library_is_never_edited() -> None:
    with pytest.raises(UsageError, match="or to Python"):
        make_patch(make_report(), Plan(), Path(ast.__file__))


def test_a_read_only_file_is_refused_and_stays(tmp_path: Path) -> None:
    patch = patch_of(tmp_path, b"x = torch.ones(2).to(device)\n", [("SYN005", "ones", {})])
    patch.file.chmod(0o444)
    with pytest.raises(UsageError, match="read-only"):
        write_patch(patch)
    assert patch.file.read_bytes() == patch.before
    assert [each.name for each in tmp_path.iterdir()] == ["mine.py"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    patch = patch_of(tmp_path, b"x = torch.ones(2).to(device)\n", [("SYN005", "ones", {})])
    link = tmp_path / "link.py"
    link.symlink_to(patch.file)
    write_patch(replace(patch, file=link))
    assert link.is_symlink()
    assert patch.file.read_bytes() == patch.after


def test_a_file_without_findings_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    with pytest.raises(UsageError, match="can't be read"):
        make_patch(make_report(), Plan(), file)
    file.write_text("x = 1\n")
    with pytest.raises(UsageError, match="knows nothing of"):
        make_patch(make_report(), Plan(), file)


def test_a_file_is_known_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = tmp_path / "app"
    app.mkdir()
    monkeypatch.chdir(app)
    Path("mine.py").write_text("x = torch.ones(2).to(device)\n")
    report = reported(Path("mine.py"), [("SYN005", "ones", {})])
    monkeypatch.chdir(tmp_path)
    patch = make_patch(report, Plan(), Path("app/mine.py"))
    assert patch.diff.startswith("--- a/app/mine.py\n")
    Path("mine.py").write_text("y = torch.ones(2).to(device)\n")
    with pytest.raises(UsageError, match="changed since the scan"):
        make_patch(report, Plan(), Path("mine.py"))


@pytest.mark.parametrize("rule", [each.code for each in all_rules()])
def test_every_rule_has_a_reason_of_its_own_where_nothing_is_edited(rule: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("for i in x:\n    y = f(i)\n")
    (why,) = make_patch(reported(file, [(rule, "y = f(i)", {})]), Plan(), file).left
    assert why.startswith(f"line 2, {rule} ")
    assert not why.endswith(("Mend it.", "."))
    assert len(why.partition(": ")[2]) > 30


def test_what_does_not_parse_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = (\n")
    with pytest.raises(UsageError, match="does not parse"):
        make_patch(reported(file, [("SYN005", "x", {})]), Plan(), file)
