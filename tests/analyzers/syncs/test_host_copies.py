"""The host's copies: read from them is what the device would have answered, or the device is asked."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from diffprof.analyzers.syncs.fixes import _shim
from diffprof.devices.simulated import Blocking, Observer, observing, simulated_gpu


def shim(name: str) -> dict[str, Any]:
    """A fresh namespace with the code as it is written out."""
    imports, definitions = _shim(name)
    namespace: dict[str, Any] = {}
    exec("\n".join(imports) + "\n" + definitions, namespace)
    return namespace


class Waits(Observer):
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def blocking(self, event: Blocking) -> None:
        self.kinds.append(str(event.kind))


@pytest.fixture
def device() -> Iterator[torch.device]:
    with simulated_gpu() as found, torch.no_grad():
        yield found


@pytest.fixture
def copies() -> type:
    return shim("host_copies")["_HostCopies"]


def waits_of(run: Callable[[], Any]) -> tuple[Any, list[str]]:
    seen = Waits()
    with observing(seen):
        result = run()
    return result, [kind for kind in seen.kinds if kind not in ("host-to-device", "staged-copy")]


def on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value


def filled(mask: torch.Tensor) -> torch.Tensor:
    made = torch.zeros_like(mask)
    row = made[1]
    made[0, : mask[0].sum()] = 1
    row.fill_(2)
    made[mask == 0] = 5
    made[:, 3:] = mask[:, 3:]
    made[1, 2:].zero_()
    return made


MASK = [[1, 1, 0, 1], [0, 1, 0, 0]]

READS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]] = {
    "an entry": lambda t, mask, x: float(t[1]),
    "a comparison": lambda t, mask, x: bool(t[1] >= 500),
    "a difference": lambda t, mask, x: bool(0.5 * (1000 - t[2]) < 3),
    "a sum to a list": lambda t, mask, x: mask.sum(dim=1).tolist(),
    "the largest": lambda t, mask, x: int(mask.sum(1).max()),
    "a sum of a mask in fractions": lambda t, mask, x: bool(mask.to(x.dtype).sum() > 3),
    "a mask that is filled in": lambda t, mask, x: filled(mask).sum(1).tolist(),
    "any": lambda t, mask, x: bool((mask == 0).any()),
    "a length as a bound": lambda t, mask, x: x[:, : mask[0].sum()],
    "a length as a size": lambda t, mask, x: x[0, :4].reshape(mask[1].sum() * 2, -1),
    "rows of a mask": lambda t, mask, x: x[0][mask[0].bool()],
    "rows of its opposite": lambda t, mask, x: x[0][~mask[0].bool()],
    "a mask of two dimensions": lambda t, mask, x: x[mask.bool()],
    "a mask beside a number": lambda t, mask, x: x[1, mask[1].bool()],
    "indexes of a mask": lambda t, mask, x: torch.nonzero(mask.flatten(), as_tuple=False).flatten(),
    "indexes as a tuple": lambda t, mask, x: torch.nonzero(mask, as_tuple=True)[1],
    "two masks in one": lambda t, mask, x: torch.cat([mask, 1 - mask]).repeat(2, 1).sum().item(),
    "a list of entries": lambda t, mask, x: torch.tensor([t[0]] * 3, device=x.device),
    "a list of entries on the host": lambda t, mask, x: torch.tensor([t[0], t[2]]),
    "equal": lambda t, mask, x: torch.equal(mask, mask.clone()),
    "printed": lambda t, mask, x: f"{t[0]}",
    "back on the host": lambda t, mask, x: mask.cpu(),
    "iterated": lambda t, mask, x: [int(row.sum()) for row in mask],
    "made on the device": lambda t, mask, x: (
        torch.ones(2, 3, dtype=torch.int64, device=x.device).sum().item()
    ),
    "like another": lambda t, mask, x: bool(torch.zeros_like(mask).any()),
}


@pytest.mark.parametrize("name", READS)
def test_what_was_sent_is_read_on_the_host(name: str, device: torch.device, copies: type) -> None:
    def given() -> tuple[torch.Tensor, ...]:
        return torch.tensor([999.0, 501.0, 3.25]), torch.tensor(MASK), torch.randn(2, 4, 6)

    torch.manual_seed(0)
    t, mask, x = given()
    expected = on_cpu(READS[name](t, mask, x))
    x = x.to(device)
    with copies():
        t, mask = t.to(device), mask.to(device)
        got, waits = waits_of(lambda: READS[name](t, mask, x))
    assert waits == []
    if isinstance(expected, torch.Tensor):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert torch.equal(got.cpu(), expected)
    else:
        assert got == expected
    _, without = waits_of(lambda: READS[name](t, mask, x))
    if name != "made on the device" and name != "like another":
        assert without, "it is read from the device without the copies"


def test_what_is_written_to_is_asked_anew(device: torch.device, copies: type) -> None:
    with copies():
        mask = torch.tensor(MASK).to(device)
        mask[0, 0] = 0
        assert waits_of(lambda: mask.sum().item()) == (3, [])
        mask[0, 1] = torch.randn(1, device=device)[0] * 0
        assert waits_of(lambda: mask.sum().item()) == (2, ["value-read"])
        mask.add_(1)
        assert waits_of(lambda: mask.sum().item()) == (10, ["value-read"])
        again = torch.tensor(MASK).to(device)
    again.view(-1)[1:].zero_()  # While nobody looks.
    with copies():
        assert waits_of(lambda: again.sum().item()) == (1, ["value-read"])


WRITES: dict[str, Callable[[torch.Tensor], Any]] = {
    "in a list": lambda x: torch._foreach_add_([x], 1.0),
    "in place by name": lambda x: torch.nn.functional.relu(x, inplace=True),
    "as a result": lambda x: torch.mul(torch.full((3,), 3.0, device=x.device).sqrt(), 2, out=x),
    "all by name": lambda x: torch.nn.init.constant_(x, 4.0),
    "raw": lambda x: x.data.add_(1),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("inference", [True, False])
def test_no_write_is_missed(how: str, inference: bool, device: torch.device, copies: type) -> None:
    """Tensors of inference mode do not tell that they were written."""
    with torch.inference_mode(inference), copies():
        x = torch.tensor([-1.0, 2.0, 3.0]).to(device)
        WRITES[how](x)
        got = x.tolist()
        expected = torch.tensor([-1.0, 2.0, 3.0])
        WRITES[how](expected)
        assert got == expected.tolist() != [-1.0, 2.0, 3.0]


def test_less_common_calls_are_answered_rightly(device: torch.device, copies: type) -> None:
    with copies():
        one = torch.tensor(True).to(device)
        assert [each.tolist() for each in torch.nonzero(one, as_tuple=True)] == [[0]]
        assert torch.nonzero(input=torch.tensor([0, 1]).to(device)).tolist() == [[1]]
        z = torch.tensor([1.0 + 2.0j]).to(device)
        assert z.conj().tolist() == [1.0 - 2.0j]
        assert torch.nn.Linear(2, 2).weight.shape == (2, 2)


def test_a_copy_on_the_host_is_the_caller_s_own(device: torch.device, copies: type) -> None:
    with copies():
        mask = torch.tensor(MASK).to(device)
        mask.cpu().zero_()
        assert mask.sum().item() == 4


def test_rounding_is_the_device_s(device: torch.device, copies: type) -> None:
    """Quotients and sums of fractions may be rounded otherwise there; numbers keep their types."""
    with copies():
        t = torch.tensor([0.1, 0.2, 0.3]).to(device)
        for read in (lambda: float(t[0] / 3), lambda: float(t.sum()), lambda: float(torch.sin(t[1]))):
            assert waits_of(read)[1] == ["value-read"]
        n = torch.tensor(3, device=device)
        assert (torch.ones(2, dtype=torch.int32, device=device)[0] * n).dtype == torch.int64
        assert torch.as_tensor(n).device == device


def test_other_memory_at_the_same_place_is_not_taken_for_it(device: torch.device, copies: type) -> None:
    with copies():
        for value in range(20):
            t = torch.tensor([value, 0]).to(device)
            assert t[0].item() == value
            del t


def test_tensors_of_inference_mode_are_asked_where_writes_are_not_seen(device: torch.device) -> None:
    made = shim("host_copies")["_HostCopies"]
    with torch.inference_mode():
        with made(sees_writes=False):
            t = torch.tensor([5, 6]).to(device)
        t.zero_()
        with made(sees_writes=False):
            assert t[1].item() == 0


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(6, 6)
        self.seen: list[int] = []
        self.inner.register_forward_hook(lambda *_: self.seen.append(torch._C._len_torch_function_stack()))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.inner(x[mask]) * torch.tensor(2.0)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return sum(block(x, mask) for block in self.blocks)


class Pipe:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Model()

    def __call__(self, device: Any, mask: list[bool]) -> torch.Tensor:
        torch.manual_seed(1)
        return self.model(torch.randn(4, 6).to(device), torch.tensor(mask).to(device))


def hooked(pipe: Pipe) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.model.modules())


def test_it_stands_in_the_parts_that_read_and_not_in_what_they_call(device: torch.device) -> None:
    plain, fixed = Pipe(), Pipe()
    for pipe in (plain, fixed):
        pipe.model.to(device)
    code = shim("host_copies")
    code["_answer_from_host_in"](fixed.model, ("blocks.*",))
    before = hooked(fixed)
    for mask in ([True, False, True, True], [False, False, True, False], [True, False, True, True]):
        expected, waits = waits_of(lambda: plain(device, mask))  # noqa: B023
        assert len(waits) == 2
        with code["_answered_from_host"](fixed):
            got, waits = waits_of(lambda: fixed(device, mask))  # noqa: B023
        assert waits == []
        assert torch.equal(got.cpu(), expected.cpu())
    assert hooked(fixed) == before
    assert set(fixed.model.blocks[0].seen) == {0}


def test_an_error_in_a_part_leaves_nothing_standing(device: torch.device) -> None:
    pipe, code = Pipe(), shim("host_copies")
    code["_answer_from_host_in"](pipe.model, ("blocks.*",))
    with pytest.raises(RuntimeError), code["_answered_from_host"](pipe):
        pipe(device, [True, False])  # The model is on the CPU, and the mask too short.
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("where", ["the part", "what it calls"])
@pytest.mark.parametrize("in_call", [True, False])
def test_ctrl_c_in_a_part_leaves_nothing_standing(device: torch.device, where: str, in_call: bool) -> None:
    """It runs no hooks of the modules that it ends, and is not taken for another error."""
    pipe, code = Pipe(), shim("host_copies")
    pipe.model.to(device)
    code["_answer_from_host_in"](pipe.model, ("blocks.*",))
    part = pipe.model.blocks[0] if where == "the part" else pipe.model.blocks[0].inner

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    def call() -> torch.Tensor:
        with code["_answered_from_host"](pipe) if in_call else contextlib.nullcontext():
            return pipe(device, [True, False, True, True])

    hook = part.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        call()
    hook.remove()
    if in_call:
        assert torch._C._len_torch_function_stack() == 0
    call()
    assert torch._C._len_torch_function_stack() == 0


def test_ctrl_c_in_a_watched_call_ends_the_watch(device: torch.device) -> None:
    code = shim("host_tensors")
    model = torch.nn.Linear(6, 6).to(device)
    code["_host_tensors_once"](model)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        model(torch.ones(2, 6).to(device))
    hook.remove()
    model(torch.ones(2, 6).to(device))
    assert torch._C._len_torch_function_stack() == 0


def test_of_what_a_model_is_given_a_limited_share_is_kept(device: torch.device) -> None:
    tensors = shim("host_tensors")["_HostTensors"]()
    tensors.kept_bytes = 4 * 100
    for n in range(2, 40):
        value = torch.full((n,), float(n))
        assert torch.equal(tensors.tensor(value, device).cpu(), value)
        assert sum(each.nbytes for pairs in tensors.kept.values() for each, _ in pairs) <= 400
    assert (torch.Size([39]), (1,), torch.float32, device) in tensors.kept


def test_a_copy_of_a_part_works_by_itself(device: torch.device) -> None:
    pipe, code = Pipe(), shim("host_copies")
    code["_answer_from_host_in"](pipe.model, ("blocks.*",))
    other = copy.deepcopy(pipe.model)
    x, mask = torch.ones(4, 6), torch.tensor([True, False, True, False])
    assert torch.equal(other(x, mask), pipe.model(x, mask))


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["model", "wrapped", "blocks"])
def test_compiled_models_are_left_whole(how: str) -> None:
    """What is compiled runs as one graph, with the hooks and the modes around it."""

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x) + torch.ones(6)
            return x.reshape(-1)

    class Whole:
        model: Any

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x * 2)

    torch._dynamo.reset()
    pipe, x = Whole(), torch.randn(3, 6)
    pipe.model = Plain()
    expected = pipe(x)
    copied, sent = shim("host_copies"), shim("small_uploads")
    copied["_answer_from_host_in"](pipe.model, ("", "blocks.*"))
    sent["_fill_small_uploads_in"](pipe.model, ("",))
    if how == "model":
        pipe.model.compile(backend="eager", fullgraph=True)
    elif how == "wrapped":
        pipe.model = torch.compile(pipe.model, backend="eager", fullgraph=True)
    else:
        for block in pipe.model.blocks:
            block.compile(backend="eager", fullgraph=True)
    with copied["_answered_from_host"](pipe), sent["_small_uploads_filled"](pipe):
        assert torch.equal(pipe(x), expected)
    assert torch.equal(pipe(x), expected)
    torch._dynamo.reset()


def test_few_of_the_sent_constants_are_kept(device: torch.device) -> None:
    code = shim("small_uploads")
    kept: dict[Any, Any] = {}
    with code["_SmallUploads"](kept) as mode:
        for n in range(3 * mode.most):
            made = torch.full((20,), float(n)).to(device)
            assert torch.equal(made.cpu(), torch.full((20,), float(n)))
    assert len(kept) == mode.most
