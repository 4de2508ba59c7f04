"""What the observer is told of each launch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from diffprof.devices.simulated import place
from diffprof.gpu.signatures import OpSignature

from .conftest import Recorder


def only(recorder: Recorder) -> OpSignature:
    (signature,) = recorder.ops
    recorder.ops.clear()
    return signature


def test_composites_are_whole(sim: torch.device, recorder: Recorder) -> None:
    for values in ("known", "unknown"):
        x = place(torch.ones(2, 5, 4), values=values)  # type: ignore[arg-type]
        w = place(torch.ones(3, 4), values=values)  # type: ignore[arg-type]
        with torch.no_grad():
            F.linear(x, w)
            s = only(recorder)
            assert s.name == "aten::linear"
            assert [m.shape for m in s.inputs] == [(2, 5, 4), (3, 4)]
            assert [m.shape for m in s.outputs] == [(2, 5, 3)]
            F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)
            s = only(recorder)
            assert s.name == "aten::scaled_dot_product_attention"
            assert s.scalars["is_causal"] is True
            F.layer_norm(x, (4,))
            assert only(recorder).name == "aten::layer_norm"


def test_signatures_are_interned(sim: torch.device, recorder: Recorder) -> None:
    x = torch.ones(2, 3, device=sim)
    recorder.ops.clear()
    for n in (1.5, 2.5):
        x * n
    a, b = recorder.ops
    assert a is b
    x[:1] * 2
    assert recorder.ops[-1] is not a
    assert len({s.id for s in recorder.ops}) == 2


def test_arguments_of_other_types_differ(sim: torch.device, recorder: Recorder) -> None:
    x = place(torch.ones(2, 3), values="unknown")
    assert x.sum(1).shape == (2,)
    assert x.sum(1, True).shape == (2, 1)
    assert x.sum(0).shape == (3,)
    assert (place(torch.ones(2, dtype=torch.int64), values="unknown") * 1).dtype == torch.int64
    assert (place(torch.ones(2, dtype=torch.int64), values="unknown") * 1.0).dtype == torch.float32


def test_views_and_empty_results_launch_nothing(sim: torch.device, recorder: Recorder) -> None:
    for values in ("known", "unknown"):
        x = place(torch.ones(2, 6), values=values)  # type: ignore[arg-type]
        x.view(3, 4)
        x.reshape(12)
        x.t()
        x[0, 1:3]
        x.expand(3, 2, 6)
        x.chunk(2, 1)
        x.detach()
        x.unsqueeze(0).squeeze(0)
        x.to(sim)
        torch.empty(3, device=sim)
        x[:0] + 1
        assert not recorder.ops
        x.t().reshape(12)
        assert only(recorder).name == "aten::reshape"


def test_copies_have_a_direction_and_bytes(sim: torch.device, recorder: Recorder) -> None:
    torch.ones(4).to(sim)
    s = only(recorder)
    assert (s.direction, s.nbytes) == ("h2d", 16)
    assert [m.device for m in s.inputs] == ["cpu"]
    assert [m.device for m in s.outputs] == ["sim"]
    x = torch.empty(4, device=sim, dtype=torch.float16)
    x.cpu()
    s = only(recorder)
    assert (s.direction, s.nbytes) == ("d2h", 8)
    torch.ones(4).pin_memory().to(sim, non_blocking=True)
    assert only(recorder).direction == "h2d"


def test_in_place_ops_name_what_they_write(sim: torch.device, recorder: Recorder) -> None:
    x = place(torch.ones(3), values="unknown")
    x.add_(1)
    s = only(recorder)
    assert [m.shape for m in s.outputs] == [(3,)]


def test_known_and_unknown_launch_the_same(sim: torch.device, recorder: Recorder) -> None:
    def run(x: torch.Tensor) -> None:
        y = F.silu(F.conv2d(x, torch.ones(4, 2, 3, 3, device=sim), padding=1)).flatten(1).softmax(-1)
        torch.cat([y, y]).mean(0).to(torch.float16)

    run(place(torch.ones(1, 2, 4, 4), values="known"))
    known = recorder.names()
    run(place(torch.ones(1, 2, 4, 4), values="unknown"))
    assert recorder.names() == known
    assert known["conv2d"] == 1
