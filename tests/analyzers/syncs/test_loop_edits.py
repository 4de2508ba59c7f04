"""Lines in the middle of a method, written without their wait: the text, and that it computes as before."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import torch

from diffprof.analyzers.syncs.class_source import NoSource, class_of
from diffprof.analyzers.syncs.line_edits import edited
from diffprof.analyzers.syncs.loop_edits import ONCE, ONCE_OF, loop_edits
from diffprof.analyzers.syncs.method_copies import MARK, subclassed
from tests.builders import make_sync

CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "a timestep is compared": (
        """
        def run(self, timesteps, boundary):
            seen = []
            for i, t in enumerate(timesteps):
                if t >= boundary:  # here
                    seen.append(i)
            return seen
        """,
        "value-read",
        {},
        "timesteps_on_host = timesteps.cpu()",
    ),
    "a timestep is told": (
        """
        def run(self, timesteps, boundary):
            for i, t in enumerate(timesteps):
                self._current_timestep = t  # here
            return float(self._current_timestep)
        """,
        "value-read",
        {},
        "self._current_timestep = timesteps_on_host[i]",
    ),
    "what follows from a timestep alone": (
        """
        def run(self, timesteps, boundary):
            seen = []
            for i, t in enumerate(timesteps):
                timestep = t.expand(3)
                timestep = (1000 - timestep) / 1000
                norm = timestep[0].item()  # here
                seen.append(norm)
            return seen
        """,
        "value-read",
        {},
        "timestep_of_all = ((1000 - timesteps) / 1000).tolist()",
    ),
    "a tensor of a device's scalar": (
        """
        def run(self, timesteps, boundary):
            return [
                torch.tensor([t] * 3, device=t.device, dtype=torch.float64)  # here
                for t in timesteps
            ]
        """,
        "tensor-from-device-scalars",
        {},
        "t[None].expand(3).to(torch.float64)",
    ),
    "a few numbers": (
        """
        def run(self, timesteps, boundary):
            weights = [0.25, 0.5, boundary]
            return torch.tensor(weights, device=timesteps.device)  # here
        """,
        "host-to-device",
        {"shape": (3,)},
        "torch.stack([torch.full((), each, device=timesteps.device) for each in weights])",
    ),
    "one number of the host": (
        """
        def run(self, timesteps, boundary):
            t = timesteps[1]
            return t[None].to(timesteps.device)  # here
        """,
        "host-to-device",
        {"shape": (1,)},
        "torch.full((1,), t.item(), dtype=t.dtype, device=timesteps.device)",
    ),
    "zeros of the host": (
        """
        def run(self, timesteps, boundary):
            n = len(timesteps)
            return torch.tensor([0] * n).to(  # here
                dtype=torch.float32, device=timesteps.device
            )
        """,
        "host-to-device",
        {"shape": (4,), "constant": True},
        "torch.zeros(n, dtype=torch.int64, device=timesteps.device)",
    ),
    "masks that put all in another order": (
        """
        def run(self, timesteps, boundary):
            a, b = timesteps, timesteps * 2
            m, n = a > boundary, b < 900
            return torch.cat([a[m], b[n], a[~m], b[~n]])  # here
        """,
        "data-dependent-shape",
        {},
        "torch.cat([torch.where(m, 0, 2), torch.where(n, 1, 3)]).argsort(stable=True)",
    ),
    "what is stored for later": (
        """
        def run(self, timesteps, boundary):
            latents = timesteps
            self.seen = torch.zeros((4, 4))
            for i, t in enumerate(timesteps):
                self.seen[i] = (timesteps + t).detach().cpu()  # here
            return self.seen
        """,
        "device-to-host",
        {},
        "torch.zeros((4, 4), device=latents.device)",
    ),
    "a scale with a bound": (
        """
        def run(self, timesteps, boundary):
            scale = boundary - timesteps[0]
            if scale < 0:  # here
                scale = 0
            return timesteps * scale
        """,
        "value-read",
        {},
        "scale = torch.clamp(torch.as_tensor(scale), min=0)",
    ),
}


def written(name: str) -> tuple[str, str, Any]:
    """(the class's source, that with the edits, the class's source as parsed with its edits)"""
    body, kind, more, _ = CASES[name]
    text = f"import torch\n\n\nclass Own:\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
    line = next(n for n, each in enumerate(text.splitlines(), 1) if each.endswith("# here"))
    source = class_of("Own", "own.py", text)
    edits = loop_edits(source, source.methods["run"], make_sync(kind=kind, **more), line)
    return text, edited(source.lines, edits), (source, edits)


def result(text: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile(f"{text}\n{ONCE}", "own.py", "exec"), names)
    return names["Own"]().run(torch.tensor([999.0, 500.0, 250.0, 1.0]), 400.0)


@pytest.mark.parametrize("name", CASES)
def test_a_line_without_its_wait_computes_the_same(name: str) -> None:
    before, after, _ = written(name)
    assert CASES[name][3] in after
    was, now = result(before), result(after)
    pairs = zip(was, now, strict=True) if isinstance(was, list) else [(was, now)]
    for one, other in pairs:
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


def test_lines_that_are_not_the_library_s_are_marked_and_counted() -> None:
    source, edits = written("a timestep is compared")[2]
    made = subclassed(source, {"run": edits}, "_without_waits")
    marked = [line.strip() for line in made.definitions.splitlines() if line.endswith(MARK)]
    assert [line.removesuffix(MARK) for line in marked] == [
        "timesteps_on_host = timesteps.cpu()",
        "if timesteps_on_host[i] >= boundary:  # here",
    ]
    assert made.kept == len(["seen", "for", "append", "return"])


def test_a_value_that_the_model_computed_has_no_kind() -> None:
    text = "class Own:\n    def run(self, x):\n        return x.sum().item()\n"
    source = class_of("Own", "own.py", text)
    with pytest.raises(NoSource, match="line 3"):
        loop_edits(source, source.methods["run"], make_sync(kind="value-read"), 3)


def test_what_is_made_of_a_tensor_is_made_anew_where_it_was_written_to() -> None:
    names: dict[str, Any] = {}
    exec(ONCE_OF, names)
    mask, made = torch.tensor([1, 0, 1]), []

    def ask() -> list[int]:
        made.append(mask.sum().item())
        return made[-1:]

    assert [names["_once_of"](mask, key, ask) for key in ("a", "a", ("a", 1))] == [[2]] * 3
    mask[0] = 0
    assert names["_once_of"](mask, "a", ask) == [1]
    assert made == [2, 2, 1]
    with torch.inference_mode():
        mask = torch.tensor([1])
        assert [names["_once_of"](mask, "a", ask) for _ in range(2)] == [[1]] * 2
