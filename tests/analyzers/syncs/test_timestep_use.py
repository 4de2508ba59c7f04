"""What a scheduler does with its timestep, read in its source."""

from __future__ import annotations

import ast
from pathlib import Path

import diffusers
import pytest

from diffprof.analyzers.syncs.class_source import NoSource, class_at, path_of
from diffprof.analyzers.syncs.method_copies import MARK, copied
from diffprof.analyzers.syncs.timestep_use import TimestepUse, timestep_use
from tests.builders import make_site, make_sync

SCALINGS = "get_scalings_for_boundary_condition_discrete"

FOUND = {
    "scheduling_ddim.DDIMScheduler": TimestepUse(True, False, True, True, (), False),
    "scheduling_pndm.PNDMScheduler": TimestepUse(True, False, True, True, (), False),
    "scheduling_ddpm.DDPMScheduler": TimestepUse(True, True, False, False, (), False),
    "scheduling_tcd.TCDScheduler": TimestepUse(True, True, True, False, (), False),
    "scheduling_lcm.LCMScheduler": TimestepUse(True, True, True, True, (SCALINGS,), False),
    "scheduling_sasolver.SASolverScheduler": TimestepUse(False, True, True, False, (), False),
    # It refuses whole numbers: they may be indexes.
    "scheduling_euler_discrete.EulerDiscreteScheduler": TimestepUse(False, True, True, False, (), False),
    "scheduling_scm.SCMScheduler": TimestepUse(True, True, True, False, (), True),
}


@pytest.mark.parametrize("name", FOUND)
def test_schedulers_of_diffusers(name: str) -> None:
    module, _, cls = name.partition(".")
    site = make_site(file=f"diffusers/schedulers/{module}.py", function=f"{cls}.step", excerpt=())
    assert timestep_use(class_at(site).methods) == FOUND[name]


def use(body: str, more: str = "") -> TimestepUse:
    source = f"class S:\n    def step(self, model_output, timestep, sample):\n        {body}\n{more}"
    nodes = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    return timestep_use({node.name: node for node in nodes})


@pytest.mark.parametrize(
    ("body", "number", "inline"),
    [
        ("return sample * self.table[timestep - 1]", True, False),
        ("return sample if timestep > 3 else model_output", True, False),
        ("return sample * timestep", False, True),
        ("x = (timestep, 1); return sample * x[0]", False, True),
        ("return sample * self.table[timestep * 2]", False, False),
        ("return sample * self.table[timestep.long()]", False, False),
        ("self.last = timestep; return sample + self.last", True, True),
        ("return sample * self.given(timestep)", False, False),
        ("return sample * len(self.timesteps)", True, False),
    ],
)
def test_of_what_stands_in_step(body: str, number: bool, inline: bool) -> None:
    found = use(body)
    assert (found.number, found.inline) == (number, inline)


@pytest.mark.parametrize(
    ("body", "indexed", "listed"),
    [
        ("return self.table[self.timesteps[self.step_index + 1]]", True, True),
        ("return self.table[timestep] if self.timesteps[1] >= 0 else len(self.timesteps)", True, True),
        ("return self.table[timestep] if self.timesteps[1:] else sample", False, False),
        ("return self.table[(self.timesteps == timestep).nonzero()]", False, False),
        ("x = self.timesteps[1]; return self.table[self.floor(x)]", True, False),
        ("return self.table[self.timesteps[1] * 2]", True, False),
        ("x = self.timesteps; return self.table[x[1]]", False, False),
        ("return self.table[self.timesteps.shape[0]]", False, False),
    ],
)
def test_when_a_list_will_do_for_the_table(body: str, indexed: bool, listed: bool) -> None:
    first = "if self.step_index is None:\n            self.i = (self.timesteps == timestep).nonzero()"
    found = use(f"{first}\n        {body}")
    assert (found.indexed, found.listed) == (indexed, listed)


def test_a_method_that_computes_is_named() -> None:
    more = "    def scale(self, timestep):\n        return timestep * 10.0\n"
    assert use("return sample * self.scale(timestep)", more) == TimestepUse(
        True, False, True, True, ("scale",), False
    )
    assert use("return sample * self.table[self.scale(timestep)]", more).computing == ()


def test_a_file_that_changed_is_not_read() -> None:
    file = "diffusers/schedulers/scheduling_ddim.py"
    assert path_of(file) == Path(diffusers.__file__).parent / "schedulers" / "scheduling_ddim.py"
    with pytest.raises(NoSource, match="not as it was scanned"):
        class_at(make_site(file=file, function="DDIMScheduler.step", excerpt=((7, "x = 1"),)))
    with pytest.raises(NoSource, match="is not on this machine"):
        class_at(make_site(file="nowhere/at_all.py", function="A.step", excerpt=()))


def test_copied_methods_differ_from_the_library_s_in_marked_lines_alone() -> None:
    file = "diffusers/schedulers/scheduling_unipc_multistep.py"
    path = path_of(file)
    assert path is not None
    theirs = path.read_text().splitlines()
    method = "UniPCMultistepScheduler.multistep_uni_p_bh_update"
    lines = [n for n, text in enumerate(theirs, 1) if "].to(device)" in text][:2]
    rows = [
        make_sync("host-to-device", site=make_site(file=file, function=method, line=n, excerpt=()))
        for n in lines
    ]
    made = copied(rows, "_f", "Name", "Doc.")
    imports, text = made.imports, made.definitions
    compile(text, "copied", "exec")
    assert "from diffusers.utils import deprecate" in imports
    known = {line.strip() for line in theirs}
    body = text.partition("# As in UniPCMultistepScheduler")[2].partition("scheduler.__class__")[0]
    own = [line for line in body.splitlines()[3:] if line.strip() and line.strip() not in known]
    assert [line.endswith(MARK) for line in own] == [True, True]
    code = [line.strip() for line in body.splitlines()[3:] if line.strip()]
    assert made.kept == sum(not line.startswith("#") for line in code) - len(own)
    assert "self.sigmas_on_device[self.step_index + 1], self.sigmas_on_device[self.step_index]" in own[0]
