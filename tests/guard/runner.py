"""Runs the steps of a composite GitHub action as a runner would: expressions, conditions, outputs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml


class Runner:
    """github: the `github` context. path: folders in front of PATH."""

    def __init__(
        self, action: Path, workspace: Path, scratch: Path, github: dict[str, Any], path: Path
    ) -> None:
        self.action = yaml.safe_load(action.read_text())
        self.workspace = workspace
        self.scratch = scratch
        self.context: dict[str, Any] = {"github": github, "steps": {}}
        self.env = {
            **os.environ,
            "PATH": f"{path}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(scratch / "temp"),
        }
        self.env["GITHUB_REPOSITORY"] = github["repository"]
        self.log = ""
        self.used: list[tuple[str, dict[str, str]]] = []
        """Steps that use other actions, with what they were given."""
        (scratch / "temp").mkdir(parents=True, exist_ok=True)

    def run(self, **inputs: str) -> int:
        """All steps; the exit status of the first that fails, else 0."""
        known = {name: each.get("default", "") for name, each in self.action["inputs"].items()}
        assert set(inputs) <= set(known)
        self.context["inputs"] = {}
        for name, value in {**known, **inputs}.items():
            self.context["inputs"][name] = self.filled(value)
        for step in self.action["runs"]["steps"]:
            if "if" in step and not self.true(step["if"]):
                continue
            code = self._step(step)
            if code and not step.get("continue-on-error"):
                return code
        return 0

    def _step(self, step: dict[str, Any]) -> int:
        if "uses" in step:
            given = {name: self.filled(value) for name, value in step.get("with", {}).items()}
            self.used.append((step["uses"], given))
            return 0
        assert step["shell"] == "bash"
        output, summary = self.scratch / "output", self.scratch / "summary"
        output.write_text("")
        env = {**self.env, "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        env |= {name: self.filled(value) for name, value in step.get("env", {}).items()}
        folder = self.workspace / self.filled(step.get("working-directory", "."))
        script = self.scratch / "step.sh"
        script.write_text(self.filled(step["run"]))
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        self.log += done.stdout + done.stderr
        outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        self.context["steps"][step.get("id", "")] = {"outputs": outputs}
        return done.returncode

    def filled(self, text: str) -> str:
        return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda found: str(self.value(found[1])), text)

    def value(self, path: str) -> Any:
        """A property of a context; of what is not there, the empty string."""
        at: Any = self.context
        for part in path.split("."):
            at = at.get(part, "") if isinstance(at, dict) else ""
        return at

    def true(self, condition: str) -> bool:
        """`a.b == 'c' && ...`"""
        parts = [part.strip().split(" == ") for part in condition.split("&&")]
        return all(self.value(one) == other.strip("'") for one, other in parts)
