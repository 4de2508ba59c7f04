"""The same check at another revision of the project, or with other versions of its libraries."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from diffprof.guard.configuration import Configuration, load_configuration
from diffprof.judge.checked import TargetCheck
from diffprof.model.errors import DiffprofError, UsageError

_GITHUB = {
    "diffusers": "huggingface/diffusers",
    "transformers": "huggingface/transformers",
    "accelerate": "huggingface/accelerate",
    "peft": "huggingface/peft",
    "torchao": "pytorch/ao",
}
"""Where `NAME@REF` is taken from."""


@contextmanager
def at_revision(revision: str, root: Path) -> Iterator[Path]:
    """A worktree of the repository at a revision, for the time of the block: the folder that is `root` there.

    Raises UsageError where there is no repository, or no such revision.
    """
    top = Path(_git(root, "rev-parse", "--show-toplevel", why=f"{root} is in no git repository"))
    commit = _git(root, "rev-parse", "--verify", f"{revision}^{{commit}}", why=f"No revision {revision!r}")
    with tempfile.TemporaryDirectory(prefix="diffprof-") as scratch:
        tree = Path(scratch) / "tree"
        _git(root, "worktree", "add", "--detach", str(tree), commit, why=f"{revision} can't be checked out")
        try:
            yield tree / root.resolve().relative_to(top.resolve())
        finally:
            _git(root, "worktree", "remove", "--force", str(tree), why="The worktree can't be removed")


def _git(folder: Path, *args: str, why: str) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise UsageError(f"{why}: {said.splitlines()[-1] if said else error}.", "Check `git log`.") from error
    return done.stdout.strip()


@contextmanager
def with_packages(spec: str) -> Iterator[Path]:
    """An environment in which one package has another version, all others being those of this one: its
    Python. spec: as pip takes it, or NAME@REF for a revision of a library on GitHub.

    Raises DiffprofError where it can't be installed.
    """
    with tempfile.TemporaryDirectory(prefix="diffprof-") as scratch:
        folder = Path(scratch) / "env"
        python = folder / "bin" / "python"
        uv = shutil.which("uv")
        here = [sys.executable, "-m"]
        venv = [uv, "venv", "--quiet", "--python", sys.executable] if uv else [*here, "venv", "--without-pip"]
        _installed([*venv, str(folder)], spec)
        pip = [uv, "pip", "install", "--python"] if uv else [*here, "pip", "--python"]
        more = [str(python)] if uv else [str(python), "install"]
        _installed([*pip, *more, "--quiet", "--no-deps", requirement(spec)], spec)
        site = _over_this_one(python)
        lacking = missing(site)
        if lacking:
            _installed([*pip, *more, "--quiet", *lacking], spec)
        yield python


def missing(site: Path) -> list[str]:
    """What the packages in a folder require and this environment has not got, as pip takes it. What it has
    keeps its version."""
    from packaging.requirements import Requirement

    told = (
        Requirement(each)
        for found in importlib.metadata.distributions(path=[str(site)])
        for each in found.requires or ()
    )
    needed = (each for each in told if each.marker is None or each.marker.evaluate({"extra": ""}))
    return sorted({str(each) for each in needed if not _has(each.name)})


def _has(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def requirement(spec: str) -> str:
    """`diffusers@main` as pip takes it; anything else as it is.

    Raises UsageError for a library whose repository is not known.
    """
    found = re.fullmatch(r"([\w.-]+)@([\w./-]+)", spec.strip())
    if found is None:
        return spec.strip()
    if found[1] not in _GITHUB:
        raise UsageError(
            f"Where {found[1]} lies is not known.", f"Write '{found[1]} @ git+https://...@{found[2]}'."
        )
    return f"{found[1]} @ git+https://github.com/{_GITHUB[found[1]]}@{found[2]}"


def _installed(command: Sequence[str], spec: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = last_error(done.stderr or done.stdout)
        raise DiffprofError(f"{spec} could not be installed: {why}", "Try it with pip.")


def last_error(said: str) -> str:
    """The line of pip's or uv's talk that says what went wrong: git's where it is git, the last otherwise."""
    lines = [line.strip() for line in said.strip().splitlines()]
    for begins in ("fatal:", "ERROR:"):
        if found := [line for line in lines if line.startswith(begins)]:
            return found[-1]
    return lines[-1] if lines else "no reason told"


def _over_this_one(python: Path) -> Path:
    """What is not installed in an environment is found in this one. Its folder of packages."""
    program = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    ours = dict.fromkeys(path for path in sys.path if path and Path(path).is_dir() and _is_site(path))
    (Path(site) / "zz-diffprof.pth").write_text("".join(f"{path}\n" for path in ours))
    return Path(site)


def _is_site(path: str) -> bool:
    """Whether it holds packages, and is not Python's own library."""
    own = Path(sysconfig.get_paths()["stdlib"])
    return Path(path) != own and Path(path) != own / "lib-dynload" and not path.endswith(".zip")


def check_there(
    folder: Path,
    config: Path,
    names: Sequence[str],
    reports: Path,
    *,
    python: Path | None = None,
    against: Path | None = None,
) -> tuple[TargetCheck, ...]:
    """`diffprof check` in another folder or with another Python, with this configuration.

    Raises DiffprofError where it ended without a result.
    """
    more = ["--against", str(against)] if against else []
    options = ["--config", str(config), "--reports", str(reports), "--format", "json", "--quiet", *more]
    command = [str(python or sys.executable), "-m", "diffprof", "check", *options, *names]
    paths = [str(folder), str(folder / "src")]
    if python is None:
        paths += [path for path in (os.environ.get("PYTHONPATH"),) if path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE)
    try:
        found = json.loads(done.stdout)["checks"]
        return msgspec.convert(found, tuple[TargetCheck, ...])
    except (ValueError, KeyError) as error:
        raise DiffprofError(
            f"The check in {folder} ended with status {done.returncode} and no result.", "See above."
        ) from error


@contextmanager
def reports_elsewhere(settings: Configuration, place: str, names: Sequence[str]) -> Iterator[Path]:
    """The folder of the reports of another check of these targets. place: such a folder, or a git revision,
    at which they are checked now.

    Raises UsageError for what is neither, DiffprofError where nothing ran there.
    """
    if Path(place).is_dir():
        yield Path(place).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="diffprof-") as scratch, at_revision(place, Path.cwd()) as tree:
        check_there(tree, Path(settings.file), names, Path(scratch))
        yield Path(scratch)


@contextmanager
def configured(spec: str) -> Iterator[Configuration]:
    """A configuration of one target that is in none."""
    with tempfile.TemporaryDirectory(prefix="diffprof-") as scratch:
        file = Path(scratch) / "pyproject.toml"
        target = json.dumps(spec)
        file.write_text(f"[tool.diffprof.targets.{target}]\ntarget = {target}\n", encoding="utf-8")
        yield load_configuration(Path.cwd(), file)
