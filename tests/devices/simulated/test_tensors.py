"""The simulated tensor behaves as one on a device: values, views, storages, conversions, errors."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffprof.devices.simulated import follows_from, is_known, is_simulated, place

from .conftest import Recorder


def unknown(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return place(torch.ones(*shape, dtype=dtype), values="unknown")


def seeded(make: Callable[[Any], Any], device: Any) -> Any:
    torch.manual_seed(3)
    return make(device)


SAME_AS_CPU: dict[str, Callable[[Any], Any]] = {
    "factories": lambda d: [
        torch.arange(3, device=d),
        torch.linspace(0, 1, 4, device=d),
        torch.eye(2, device=d),
        torch.full((2,), 3.0, device=d),
        torch.tril_indices(3, 3, device=d),
        torch.logspace(0, 1, 3, device=d),
    ],
    "random": lambda d: [
        torch.randn(3, device=d),
        torch.rand(3, device=d),
        torch.randperm(5, device=d),
        torch.randint(0, 9, (4,), device=d),
        torch.bernoulli(torch.full((4,), 0.5, device=d)),
        torch.randn_like(torch.zeros(2, device=d)),
        F.dropout(torch.ones(8, device=d)),
    ],
    "arithmetic": lambda d: [
        torch.arange(4.0, device=d) * 2 + 1,
        torch.arange(4.0, device=d) / torch.tensor(2.0),
        torch.arange(4, device=d) // 3,
        torch.where(torch.arange(4, device=d) > 1, torch.tensor(1.0), torch.tensor(2.0)),
    ],
    "matrices": lambda d: [
        torch.randn(2, 3, device=d) @ torch.randn(3, 2, device=d),
        torch.einsum("bij,bjk->bik", torch.randn(2, 3, 4, device=d), torch.randn(2, 4, 3, device=d)),
        torch.baddbmm(*(torch.randn(2, 3, 3, device=d) for _ in range(3))),
        torch.linalg.solve(torch.randn(3, 3, device=d), torch.randn(3, 1, device=d)),
    ],
    "attention": lambda d: [
        F.scaled_dot_product_attention(*(torch.randn(1, 2, 8, 4, device=d) for _ in range(3))),
        F.scaled_dot_product_attention(
            *(torch.randn(1, 2, 8, 4, device=d) for _ in range(3)), is_causal=True
        ),
    ],
    "images": lambda d: [
        F.interpolate(torch.randn(1, 2, 4, 4, device=d), scale_factor=2),
        F.interpolate(torch.randn(1, 2, 4, 4, device=d), size=(3, 3), mode="bilinear"),
        F.pad(torch.randn(1, 2, 4, device=d), (1, 1), mode="reflect"),
        F.conv2d(torch.randn(1, 2, 5, 5, device=d), torch.randn(3, 2, 3, 3, device=d)),
    ],
    "complex": lambda d: [
        torch.view_as_real(
            torch.polar(torch.ones(2, device=d), torch.ones(2, device=d)).conj()
            * torch.view_as_complex(torch.randn(2, 2, device=d))
        ),
        torch.fft.ifftn(torch.fft.fftn(torch.randn(4, 4, device=d))).real,
    ],
    "indexing": lambda d: [
        torch.arange(12, device=d).view(3, 4)[1:, ::2],
        torch.arange(5, device=d)[torch.tensor([0, 3], device=d)],
        torch.arange(5, device=d)[torch.arange(5, device=d) > 2],
        torch.arange(6, device=d).view(2, 3)[[0, 1], [1, 2]],
    ],
    "out=": lambda d: [
        torch.add(torch.ones(2, device=d), 1, out=torch.empty(2, device=d)),
        torch.add(torch.ones(2, device=d), 1, out=torch.empty(0, device=d)),
        torch.add(torch.ones(4, device=d), 1, out=torch.empty(4, device=d)),
        torch.cat([torch.ones(2, device=d)] * 2, out=torch.empty(0, device=d)),
    ],
    "lists of scalars": lambda d: [
        torch.tensor([[torch.ones(2, device=d)[0], 2], [3, 4.0]]),
        torch.Tensor([torch.ones(1, device=d)[0], 2.0]),
        torch.tensor([torch.ones(1, dtype=torch.half, device=d)[0]]),
    ],
    "conversions": lambda d: [
        torch.ones(2).to(d, torch.float16),
        torch.ones(1, 2, 3, 4, device=d).to(memory_format=torch.channels_last),
        torch.arange(3, device=d).type(torch.float64),
        torch.arange(2, device=d).to("cpu", torch.float32),
        torch.ones(2).to(torch.zeros(1, device=d)),
        torch.randn(4, device=d).view(torch.int32),
    ],
    "in-place views": lambda d: [
        torch.zeros(3, device=d).unsqueeze_(0),
        torch.zeros(1, 3, device=d).t_().squeeze_(),
        torch.arange(6.0, device=d).view(2, 3).transpose_(0, 1),
        torch.arange(6.0, device=d).as_strided((2, 2), (2, 1), 1),
    ],
    "statistics": lambda d: [
        torch.quantile(torch.arange(5.0, device=d), 0.5),
        torch.randn(8, device=d).std(),
        torch.randn(8, device=d).topk(2).values,
        torch.arange(4, device=d).unique(),
    ],
}


@pytest.mark.parametrize("name", SAME_AS_CPU)
def test_equals_the_cpu_bit_for_bit(name: str, sim: torch.device) -> None:
    make = SAME_AS_CPU[name]
    on_cpu, on_sim = seeded(make, "cpu"), seeded(make, sim)
    for a, b in zip(on_cpu, on_sim, strict=True):
        assert b.dtype == a.dtype
        assert b.stride() == a.stride()
        assert torch.equal(a, b.cpu())


MODULES: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: torch.nn.Linear(4, 3), (2, 4)),
    "linear on a sequence": (lambda: torch.nn.Linear(4, 3, bias=False), (2, 5, 4)),
    "conv and group norm": (
        lambda: torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.SiLU()),
        (1, 2, 8, 8),
    ),
    "batch norm": (lambda: torch.nn.BatchNorm2d(2).eval(), (1, 2, 3, 3)),
    "layer norm": (lambda: torch.nn.LayerNorm(4), (2, 4)),
    "transposed conv": (lambda: torch.nn.ConvTranspose2d(2, 3, 2, stride=2), (1, 2, 4, 4)),
    "attention": (lambda: torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), (1, 3, 4)),
    "lstm": (lambda: torch.nn.LSTM(4, 3, bidirectional=True), (2, 1, 4)),
    "gru": (lambda: torch.nn.GRU(4, 3), (2, 1, 4)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modules_equal_the_cpu_and_unknown_ones_have_the_same_shapes(
    name: str, mode: Any, sim: torch.device
) -> None:
    build, shape = MODULES[name]
    torch.manual_seed(1)
    module = build()
    x = torch.randn(*shape)
    with mode():
        expected = first(module(x))
        got = first(place(copy.deepcopy(module), values="known")(x.to(sim)))
        empty = first(place(module, values="unknown")(x.to(sim)))
    if torch.is_inference(expected) or not expected.requires_grad:
        assert torch.equal(expected, got.detach().cpu())
    else:  # composites are taken apart for the gradient, other kernels than the CPU's fused ones
        assert torch.allclose(expected, got.detach().cpu(), atol=1e-6)
    assert not is_known(empty)
    assert empty.shape == expected.shape
    assert empty.dtype == expected.dtype


def first(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


def test_gradients_equal_the_cpu(sim: torch.device) -> None:
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    x = torch.randn(3, 4)
    twin = place(copy.deepcopy(module), values="known")
    module(x).sum().backward()
    twin(x.to(sim)).sum().backward()
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad.cpu())
    blank = place(copy.deepcopy(module), values="unknown")
    blank(x.to(sim)).sum().backward()
    assert [p.grad.shape for p in blank.parameters()] == [p.shape for p in module.parameters()]


# --- views and what is known ------------------------------------------------------------------------------


def test_views_share_their_memory(sim: torch.device) -> None:
    x = torch.zeros(4, device=sim)
    x[1:3] += 1
    x.view(2, 2)[0].mul_(3)
    x.reshape(2, 2)[1].copy_(torch.full((2,), 7.0, device=sim))
    assert x.tolist() == [0, 3, 7, 7]


def test_unknown_data_through_one_view_makes_all_unknown(sim: torch.device) -> None:
    x = torch.zeros(4, device=sim)
    before = x[2:]
    x.view(2, 2)[0].copy_(unknown(2))
    assert not is_known(x)
    assert not is_known(before)
    assert not is_known(x[0])
    assert is_known(torch.zeros(4, device=sim))


def test_overwriting_all_makes_known_again_through_all_views(sim: torch.device) -> None:
    x = unknown(4)
    view = x.view(2, 2)[1]
    x.copy_(torch.arange(4.0))
    assert is_known(x)
    assert view.tolist() == [2, 3]
    x.copy_(unknown(4))
    assert not is_known(view)
    x.fill_(5)
    assert view.tolist() == [5, 5]


def test_overwriting_a_part_does_not(sim: torch.device) -> None:
    x = unknown(4)
    x[:2].zero_()
    assert not is_known(x)


@pytest.mark.parametrize("make", [torch.zeros_like, torch.ones_like, torch.randn_like, torch.empty_like])
def test_likes_of_unknown_tensors_are_known(make: Any, sim: torch.device) -> None:
    assert is_known(make(unknown(2, 3)))
    assert is_known(unknown(2).new_zeros(3))
    assert unknown(2, 3).new_full((1,), 2.0).item() == 2


def test_large_memory_is_not_filled_where_weights_are_unknown(sim: torch.device) -> None:
    assert is_known(torch.zeros(5_000_000, device=sim))
    unknown(1)
    assert not is_known(torch.zeros(5_000_000, device=sim))


def test_what_is_drawn_on_the_device_is_not_computed_where_weights_are_unknown(sim: torch.device) -> None:
    assert is_known(torch.randn(5_000, device=sim))
    mask = torch.zeros(10_000, device=sim)
    unknown(1)
    assert is_known(torch.randn(5, device=sim))
    assert not is_known(torch.randn(5_000, device=sim))
    assert not is_known(torch.rand_like(mask))
    mask[:5_000].bernoulli_()
    assert is_known(mask)


def test_unknown_wins_in_every_op(sim: torch.device) -> None:
    assert not is_known(unknown(2) + torch.ones(2, device=sim))
    assert not is_known(torch.cat([unknown(2), torch.ones(2, device=sim)]))
    assert is_known(torch.ones(2, device=sim) + 1)


def test_shapes_are_checked_on_unknown_values(sim: torch.device) -> None:
    with pytest.raises(RuntimeError, match=r"must match|broadcast"):
        unknown(2) + unknown(3)
    with pytest.raises(RuntimeError, match=r"multiplied|reduction dim"):
        unknown(2, 3) @ unknown(2, 3)


def test_copies_to_the_host_of_unknown_data_are_placeholders(sim: torch.device, recorder: Recorder) -> None:
    host = unknown(2, 3).cpu()
    assert torch.equal(host, torch.zeros(2, 3))
    assert recorder.made == [((2, 3), torch.float32)]
    assert not is_known(host.to(sim))  # zeros that stand for unknown data are that again
    assert is_known((host + 1).to(sim))


# --- storages and the rest of the tensor's interface --------------------------------------------------------


def test_set_and_data(sim: torch.device) -> None:
    a, b = torch.zeros(1, device=sim), torch.ones(3, device=sim)
    a.set_(b)
    b.add_(1)
    assert a.tolist() == [2, 2, 2]
    p = torch.nn.Parameter(torch.zeros(2))
    identity = id(p)
    p.data = torch.ones(2, device=sim)
    assert is_simulated(p)
    assert isinstance(p, torch.nn.Parameter)
    p.data = torch.full((2,), 3.0)
    assert not is_simulated(p)
    assert p.tolist() == [3, 3]
    assert id(p) == identity


class Packed(torch.nn.Parameter):
    """As bitsandbytes' `Params4bit`, which makes itself anew when it is moved."""

    def __new__(cls, data: torch.Tensor, bits: int) -> Any:
        made = torch.Tensor._make_subclass(cls, data, False)
        made.bits = bits
        made.data = data
        return made


def test_a_parameter_of_another_class_keeps_its_fields(sim: torch.device) -> None:
    made = Packed(torch.ones(2), 4)
    there = Packed(made.to(sim), made.bits)
    assert is_simulated(there)
    assert isinstance(there, torch.nn.Parameter)
    assert (there.bits, there.tolist(), there.requires_grad) == (4, [1, 1], False)
    assert type(made) is Packed


def test_resizing(sim: torch.device) -> None:
    assert torch.arange(2.0, device=sim).resize_(1).tolist() == [0]
    assert unknown(2).resize_(5).shape == (5,)
    assert torch.add(unknown(3), 1, out=torch.empty(0, device=sim)).shape == (3,)


def test_numpy_is_refused_as_on_cuda(sim: torch.device) -> None:
    x = torch.ones(2, device=sim)
    for use in (x.numpy, lambda: np.array(x), lambda: np.asarray(x)):
        with pytest.raises(TypeError, match=r"can't convert sim:0 device type tensor to numpy"):
            use()
    assert x.numpy(force=True).tolist() == [1, 1]


def test_pinned_memory(sim: torch.device) -> None:
    assert not torch.ones(2).is_pinned()
    pinned = torch.ones(4).pin_memory()
    assert pinned.is_pinned()
    assert pinned[:2].is_pinned()
    assert pinned.pin_memory() is pinned
    assert torch.empty(2, pin_memory=True).is_pinned()
    assert torch.ones(2, device=sim).to("cpu", non_blocking=True).is_pinned()
    assert not torch.ones(2, device=sim).is_pinned()
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        torch.ones(2, device=sim).pin_memory()


MISMATCHES: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "add": lambda s, c: s + c,
    "add, other way": lambda s, c: c + s,
    "matmul": lambda s, c: c @ s,
    "linear": F.linear,
    "cat": lambda s, c: torch.cat([c, s]),
    "embedding": lambda s, c: F.embedding(c.long(), s),
    "index of a CPU tensor": lambda s, c: c[s.long()],
    "where": lambda s, c: torch.where(s > 0, c, c),
}


@pytest.mark.parametrize("name", MISMATCHES)
@pytest.mark.parametrize("values", ["known", "unknown"])
def test_mixed_devices_are_refused_as_on_cuda(name: str, values: Any, sim: torch.device) -> None:
    with pytest.raises(RuntimeError, match="on the same device"):
        MISMATCHES[name](place(torch.ones(2, 2), values=values), torch.ones(2, 2))


def test_generators(sim: torch.device) -> None:
    g = torch.Generator(sim).manual_seed(3)
    assert isinstance(g, torch.Generator)
    assert g.device == sim
    expected = torch.randn(4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.randn(4, generator=g, device=sim).cpu(), expected)
    state = g.get_state()
    a = torch.rand(2, generator=g, device=sim)
    g.set_state(state)
    assert torch.equal(a.cpu(), torch.rand(2, generator=g, device=sim).cpu())
    with pytest.raises(RuntimeError, match="Expected a 'sim' device type for generator but found 'cpu'"):
        torch.randn(2, generator=torch.Generator(), device=sim)
    assert copy.deepcopy(g).device == sim
    assert torch.Generator().device.type == "cpu"


def test_default_devices(sim: torch.device) -> None:
    with torch.device(sim):
        made = [torch.zeros(2), torch.tensor(1), torch.arange(3), torch.nn.Linear(2, 2).weight]
    assert all(is_simulated(t) for t in made)
    torch.set_default_device(sim)
    try:
        assert is_simulated(torch.zeros(2))
    finally:
        torch.set_default_device(None)
    assert not is_simulated(torch.zeros(2))


def test_to_returns_itself_where_nothing_changes(sim: torch.device) -> None:
    x = torch.ones(2, device=sim)
    assert x.to(sim) is x
    assert x.to("sim") is x
    assert x.to(torch.float32) is x
    assert x.to(sim, copy=True) is not x
    assert x.to("meta").device.type == "meta"


def test_modules_move(sim: torch.device) -> None:
    m = torch.nn.Linear(2, 2)
    expected = m.weight.detach().clone()
    assert is_simulated(m.to(sim).weight)
    assert m.half().weight.dtype == torch.float16
    assert isinstance(m.weight, torch.nn.Parameter)
    assert torch.equal(m.float().cpu().weight, expected.half().float())
    assert is_simulated(m.sim().weight)


@pytest.mark.parametrize("values", ["known", "unknown"])
def test_copies_of_modules(values: Any, sim: torch.device) -> None:
    m = torch.nn.Linear(2, 2)
    expected = m.weight.detach().clone()
    place(m, values=values)
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert isinstance(twin.weight, torch.nn.Parameter)
        assert is_known(twin.weight) == (values == "known")
        with torch.no_grad():
            twin.weight.zero_()
        if values == "known":
            assert torch.equal(m.weight.detach().cpu(), expected)
    buffer = io.BytesIO()
    torch.save(m.state_dict(), buffer)
    buffer.seek(0)
    assert is_simulated(torch.load(buffer, weights_only=False)["weight"])


def test_state_dicts_load(sim: torch.device) -> None:
    source = torch.nn.Linear(2, 2)
    m = place(torch.nn.Linear(2, 2), values="known")
    m.load_state_dict(source.state_dict())
    assert torch.equal(m.weight.detach().cpu(), source.weight)
    m.load_state_dict(source.state_dict(), assign=True)
    assert not is_simulated(m.weight)


def test_threads(sim: torch.device, recorder: Recorder) -> None:
    made: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: made.append(torch.zeros(2, device=sim) + torch.ones(2).to(sim)))
    thread.start()
    thread.join()
    assert made[0].tolist() == [1, 1]
    assert recorder.kinds() == ["host-to-device", "value-read"]


def test_printing(sim: torch.device) -> None:
    assert repr(torch.ones(1, device=sim)) == "tensor([1.], device='sim:0')"
    assert repr(unknown(2)) == "tensor(shape=(2,), dtype=float32, device=sim:0, unknown values)"
    assert repr(torch.nn.Parameter(torch.ones(1, device=sim))).startswith(
        "Parameter containing:\ntensor([1.]"
    )


def test_addresses_tell_storages_apart(sim: torch.device) -> None:
    x = torch.zeros(4, device=sim)
    assert x[2:].data_ptr() - x.data_ptr() == 8
    assert x.data_ptr() != torch.zeros(4, device=sim).data_ptr()


def test_custom_ops(sim: torch.device, recorder: Recorder) -> None:
    library = torch.library.Library("diffprof_test", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    assert torch.ops.diffprof_test.twice(torch.ones(2, device=sim)).tolist() == [2, 2]
    assert recorder.opaques == ["diffprof_test::twice"]
    with pytest.raises(Exception, match=r"diffprof_test::twice needs the value.*no fake kernel"):
        torch.ops.diffprof_test.twice(unknown(2))
    library.impl("twice", torch.empty_like, "Meta")
    assert torch.ops.diffprof_test.twice(unknown(2)).shape == (2,)
    library._destroy()


def test_compiled_functions_run_eagerly(sim: torch.device) -> None:
    m = place(torch.nn.Linear(2, 3), values="unknown")
    torch.compiler.set_stance("force_eager")
    try:
        assert torch.compile(m)(torch.ones(1, 2, device=sim)).shape == (1, 3)
    finally:
        torch.compiler.set_stance("default")


def test_flex_attention(sim: torch.device, recorder: Recorder) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v)
    got = flex_attention(q.to(sim), k.to(sim), v.to(sim))
    assert torch.allclose(expected, got.cpu(), atol=1e-5)
    assert flex_attention(place(q, values="unknown"), k.to(sim), v.to(sim)).shape == expected.shape
    assert "flex_attention" in recorder.opaques


def test_modules_keep_their_parameters_as_objects_unless_they_were_on_meta(sim: torch.device) -> None:
    module = torch.nn.utils.skip_init(torch.nn.Linear, 2, 2)
    weight = module.weight
    assert module.to(sim).weight is weight
    assert weight.device.type == sim.type
    assert module.to("cpu").weight is weight
    empty = torch.nn.Linear(2, 2, device="meta")
    assert empty.to_empty(device=sim).weight.device.type == sim.type


def test_what_known_values_were_computed_from(sim):
    table, other = torch.arange(4.0).to("sim"), torch.arange(4.0).to("sim")
    taken = table[1:].half() * 2 - 1
    assert follows_from(taken, table)
    assert follows_from(table[2], taken)
    assert not follows_from(taken, other)
    assert not follows_from(table, other)
    other += table[0]
    assert follows_from(other, taken), "written into"
    again = torch.tensor(taken.tolist(), device="sim")
    assert not follows_from(again, taken), "sent by the host anew"
