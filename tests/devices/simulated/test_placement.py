"""Modules on the simulated device, with and without values, and modules that are built empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffprof.devices.simulated import empty_weights, is_known, is_simulated, place

from .conftest import Recorder


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.tied = torch.nn.Linear(3, 4)
        self.tied.weight = self.inner[0].weight
        self.scale = torch.nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
        self.register_buffer("positions", torch.arange(4))


def test_values_stay_or_go(sim: torch.device, recorder: Recorder) -> None:
    kept = place(Block(), values="known")
    assert all(is_known(p) and is_simulated(p) for p in kept.parameters())
    dropped = place(Block(), values="unknown")
    assert not any(is_known(p) for p in dropped.parameters())
    assert dropped.positions.tolist() == [0, 1, 2, 3]
    assert dropped.inner[1].running_mean.tolist() == [0] * 4
    recorder.kinds()
    for m in (kept, dropped):
        assert m.tied.weight is m.inner[0].weight
        assert all(isinstance(p, torch.nn.Parameter) for p in m.parameters())
        assert not m.scale.requires_grad
        assert m.tied.weight.requires_grad
    assert not recorder.ops
    assert not recorder.waits


def test_from_meta(sim: torch.device, recorder: Recorder) -> None:
    with torch.device("meta"):
        m = Block()
    place(m, values="unknown")
    assert all(is_simulated(t) and not is_known(t) for t in [*m.parameters(), m.positions])
    assert recorder.live == 512 * len({id(t) for t in [*m.parameters(), *m.buffers()]})


def test_placing_twice_changes_nothing(sim: torch.device) -> None:
    m = place(torch.nn.Linear(2, 2), values="unknown")
    before = m.weight
    place(m, values="unknown")
    assert m.weight is before
    assert is_known(place(place(torch.nn.Linear(2, 2), values="known"), values="known").weight)
    assert not is_known(place(place(torch.nn.Linear(2, 2), values="known"), values="unknown").weight)


def test_tensors(sim: torch.device) -> None:
    x = torch.arange(6.0).view(2, 3).t()
    assert place(x, values="known").stride() == (1, 3)
    assert torch.equal(place(x, values="known").cpu(), x)
    assert place(x, values="unknown").stride() == (1, 3)
    known = place(x, values="known")
    known.zero_()
    assert x[1, 1] == 4


def test_empty_weights(sim: torch.device, recorder: Recorder) -> None:
    before = torch.nn.init.kaiming_uniform_
    with empty_weights(torch.float16):
        m = Block()
        big = torch.nn.Linear(100_000, 100_000)  # 40 GB if it were real
    assert torch.nn.init.kaiming_uniform_ is before
    assert m.inner[0].weight.dtype == torch.float16
    assert not is_known(m.inner[0].weight)
    assert not is_simulated(m.positions)
    assert big.weight.shape == (100_000, 100_000)
    assert recorder.live > 20e9
    place(m, values="unknown")
    assert m.positions.tolist() == [0, 1, 2, 3]
    assert m.tied.weight is m.inner[0].weight
    assert m.tied(torch.ones(2, 3, device=sim, dtype=torch.float16)).shape == (2, 4)


def test_casts_of_empty_modules(sim: torch.device) -> None:
    with empty_weights():
        m = Block()
    place(m.to(torch.bfloat16), values="unknown")
    assert {p.dtype for p in m.parameters()} == {torch.bfloat16}
    assert m.positions.dtype == torch.int64


def test_modules_shared_between_components_keep_their_geometry(sim: torch.device) -> None:
    """Tensors that were replaced are not mixed up with later ones at the same address."""

    class Pipe:
        def __init__(self) -> None:
            self.shared = [torch.nn.Linear(width, 3) for width in range(1, 40)]
            self.components = {
                f"part{n}": torch.nn.ModuleList([*self.shared[n:], torch.nn.Linear(n + 50, 3)])
                for n in range(30)
            }

    pipe = Pipe()
    place(pipe, values="unknown")
    assert [layer.weight.shape for layer in pipe.shared] == [(3, width) for width in range(1, 40)]
    own = [part[-1].weight.shape for part in pipe.components.values()]
    assert own == [(3, n + 50) for n in range(30)]


def test_parameters_tied_between_modules_stay_tied(sim: torch.device) -> None:
    one, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    other.weight = one.weight
    place([one, other], values="unknown")
    assert one.weight is other.weight
    assert one.bias is not other.bias


def _layer(width: int = 3) -> torch.nn.Linear:
    return torch.nn.Linear(width, 4)


def _tied() -> list[torch.nn.Module]:
    words, head = torch.nn.Embedding(7, 5), torch.nn.Linear(5, 7, bias=False)
    head.weight = words.weight
    return [words, head]


def _with_buffers() -> list[torch.nn.Module]:
    one, other = torch.nn.BatchNorm1d(6), torch.nn.BatchNorm1d(6)
    other.running_mean = one.running_mean
    return [one, other]


def _under_other_names() -> list[torch.nn.Module]:
    one, other = _layer(), torch.nn.Module()
    other.register_parameter("own", one.weight)
    other.register_buffer("seen", one.bias.detach())
    return [one, other]


def _within() -> list[torch.nn.Module]:
    inner = _layer()
    return [torch.nn.Sequential(inner, _layer(4)), inner, torch.nn.Sequential(torch.nn.Sequential(inner))]


def _lists() -> list[torch.nn.Module]:
    blocks = [_layer(n) for n in range(1, 30)]
    return [torch.nn.ModuleList(blocks), torch.nn.ModuleList(blocks[::-1]), torch.nn.ModuleList(blocks[::2])]


def _taken_over() -> list[torch.nn.Module]:
    """As Z-Image's ControlNet takes the transformer's modules and parameters."""
    net, control = torch.nn.Module(), torch.nn.Module()
    net.embed = control.embed = _layer(9)
    net.token = control.token = torch.nn.Parameter(torch.zeros(2))
    control.own = _layer(8)
    return [control, net]


def _with_itself() -> list[torch.nn.Module]:
    same = _layer()
    return [same, same, torch.nn.ModuleDict({"a": same, "b": same})]


def _of_other_types() -> list[torch.nn.Module]:
    half = _layer().to(torch.bfloat16)
    turned = torch.nn.Linear(4, 3, bias=False)
    turned.weight = torch.nn.Parameter(torch.zeros(4, 3).t())
    return [half, turned, torch.nn.ModuleList([turned, half])]


def layout(parts: list[torch.nn.Module]) -> dict[str, Any]:
    """By path: shape, strides, dtype, kind, and the first path of the same tensor."""
    found: dict[str, Any] = {}
    first: dict[int, str] = {}
    kept = []  # an id is its own only while the tensor lives
    for number, part in enumerate(parts):
        for path, module in part.named_modules(remove_duplicate=False):
            for name, tensor in {**module._parameters, **module._buffers}.items():
                if tensor is not None:
                    kept.append(tensor)
                    own = f"{number}.{path}.{name}"
                    same = first.setdefault(id(tensor), own)
                    kind = name in module._parameters
                    found[own] = tuple(tensor.shape), tensor.stride(), tensor.dtype, kind, same
    return found


SHARING = (
    _tied,
    _with_buffers,
    _under_other_names,
    _within,
    _lists,
    _taken_over,
    _with_itself,
    _of_other_types,
)


@pytest.mark.parametrize("values", ["known", "unknown"])
@pytest.mark.parametrize("made", SHARING, ids=lambda made: made.__name__)
def test_what_is_shared_stays_shared(sim: torch.device, made: Callable[[], Any], values: Any) -> None:
    parts = made()
    before = layout(parts)
    assert any(own != row[-1] for own, row in before.items())
    place(parts, values=values)
    assert layout(parts) == before
    assert all(tensor.device.type == sim.type for part in parts for tensor in part.state_dict().values())
