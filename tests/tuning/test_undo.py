"""What is changed after a snapshot is given back exactly: modules, tensors, schedulers, classes, settings."""

from __future__ import annotations

import diffusers.utils.torch_utils
import numpy as np
import pytest
import torch

from diffprof.devices import storages as storages_module
from diffprof.devices.storages import Kept, Storages, fingerprint
from diffprof.targets.undo import Snapshot, restored
from tests.analyzers.graph_breaks.tiny import sdxl
from tests.tuning.conftest import settings, unchanged  # noqa: F401

SMALLEST = sdxl()


@pytest.fixture
def built():
    return SMALLEST.pipe


def image(pipe):
    return pipe(**SMALLEST.kwargs, generator=torch.Generator().manual_seed(0)).images


def written_in_place(pipe):
    pipe.unet.conv_in.weight.data.mul_(1.5)
    pipe.vae.decoder.conv_in.bias.data.add_(1.0)


def cast(pipe):
    pipe.to(torch.bfloat16)


def channels_last(pipe):
    pipe.unet.to(memory_format=torch.channels_last)


def processors(pipe):
    pipe.unet.set_default_attn_processor()
    for module in pipe.unet.modules():
        if hasattr(module, "processor"):
            module.processor.extra = 1


def fused(pipe):
    pipe.fuse_qkv_projections()


def lora(pipe):
    from peft import LoraConfig

    pipe.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), adapter_name="a"
    )
    pipe.fuse_lora(components=["unet"])


def quantized(pipe):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(pipe.unet, Int8WeightOnlyConfig(set_inductor_config=False))


def scheduler(pipe):
    pipe.scheduler.alphas_cumprod.mul_(0.9)
    pipe.scheduler.betas = None
    pipe.scheduler.register_to_config(beta_start=0.5)
    pipe.scheduler.step = lambda *args, **kwargs: None
    pipe.scheduler.__class__ = type("Other", (type(pipe.scheduler),), {})


def replaced(pipe):
    pipe.scheduler = None
    pipe.unet.mid_block = None
    pipe.anything = 1


def classes(pipe):
    type(pipe.unet).forward = None
    type(pipe.unet).added = 1
    type(pipe).__call__ = None
    diffusers.utils.torch_utils.randn_tensor = None


def hooks(pipe):
    pipe.unet.register_forward_hook(lambda *args: None)
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()


def compiled(pipe):
    pipe.unet.compile(backend="eager")
    pipe.vae.decode = torch.compile(pipe.vae.decode, backend="eager")


def globals_(pipe):
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.set_default_dtype(torch.float16)
    inductor.conv_1x1_as_mm = True
    inductor.coordinate_descent_tuning = True
    dynamo.recompile_limit = 99


CHANGES = [
    *(written_in_place, cast, channels_last, processors, fused, lora, quantized, scheduler, replaced),
    *(classes, hooks, compiled, globals_),
]


@pytest.mark.parametrize("change", CHANGES)
def test_apply_then_undo_gives_the_original(built, unchanged, change):  # noqa: F811
    before = image(built)
    state = {
        name: (value.dtype, value.stride(), value.clone()) for name, value in built.unet.state_dict().items()
    }
    held = dict(vars(built.scheduler))
    snapshot = Snapshot(built)
    change(built)
    snapshot.restore()
    after = built.unet.state_dict()
    assert after.keys() == state.keys()
    for name, (dtype, stride, value) in state.items():
        assert (after[name].dtype, after[name].stride()) == (dtype, stride)
        assert torch.equal(after[name], value)
    assert vars(built.scheduler).keys() == held.keys()
    assert np.array_equal(image(built), before)


@pytest.mark.nightly
def test_two_states_can_be_taken_in_turn(built, unchanged):  # noqa: F811
    storages = Storages()
    plain = Snapshot(built, storages=storages)
    one = image(built)
    written_in_place(built)
    built.unet.to(memory_format=torch.channels_last)
    changed = Snapshot(built, storages=storages)
    other = image(built)
    assert not np.array_equal(one, other)
    for _ in range(2):
        plain.restore()
        assert np.array_equal(image(built), one)
        changed.restore()
        assert np.array_equal(image(built), other)
    plain.restore()


def test_bytes_are_held_once_where_they_are_the_same(built):
    storages = Storages()
    first = Snapshot(built, storages=storages)
    second = Snapshot(built, storages=storages)
    assert first._kept
    assert list(second._kept.values()) == list(first._kept.values())


class Pair:
    """Two layers, 272 and 144 bytes of weights and biases."""

    def __init__(self):
        self.first, self.second = torch.nn.Linear(16, 4), torch.nn.Linear(8, 4)


def held(snapshot):
    return sum(kept.here.numel() for kept in snapshot._kept.values() if kept.here is not None)


@pytest.mark.parametrize("by", ["bytes", "fingerprint"])
def test_only_what_changed_is_copied_and_written_back(by, monkeypatch):
    """The CPU compares bytes, a device the fingerprints that it computes."""
    made, written = [], []

    class Counted(Kept):
        def __init__(self, storage, where):
            super().__init__(storage, where)
            if by == "fingerprint":
                self._print = fingerprint(self.here)
            made.append(self.copy.numel())

        def back(self):
            here, before = self.here, self.here._version
            super().back()
            written.extend([here.numel()] * (here._version != before))
            return here

    monkeypatch.setattr(storages_module, "Kept", Counted)
    pair, storages = Pair(), Storages()
    plain = Snapshot(pair, storages=storages)
    assert sorted(made) == [16, 16, 128, 256]
    with torch.no_grad():
        pair.second.weight.mul_(2)
    changed = Snapshot(pair, storages=storages)
    assert sorted(made) == [16, 16, 128, 128, 256]
    plain.restore()
    changed.restore()
    changed.restore()
    assert written == [128, 128]


def test_what_only_a_snapshot_holds_is_parked_and_comes_back():
    """On a device whose memory is spared; here the CPU plays it."""
    pair, storages = Pair(), Storages(spare=torch.device("cpu"))
    plain = Snapshot(pair, storages=storages)
    weight, values = pair.first.weight, pair.first.weight.detach().clone()
    assert held(plain) == 272 + 144
    pair.first.to(torch.bfloat16)
    cast = Snapshot(pair, storages=storages)
    storages.park([pair])
    assert (held(plain), held(cast)) == (144, 136 + 144)
    pair.first.weight = torch.nn.Parameter(values * 2)
    storages.park([pair])
    assert weight.numel() == 0
    assert (held(plain), held(cast)) == (144, 8 + 144)
    plain.restore()
    storages.park([pair])
    assert pair.first.weight is weight
    assert torch.equal(weight, values)
    assert (held(plain), held(cast)) == (272 + 144, 144)
    cast.restore()
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, values.bfloat16())


def test_a_fingerprint_shows_each_change():
    data = torch.randint(0, 255, (8 * 1000 + 3,), dtype=torch.uint8)
    seen = {fingerprint(data)}
    for at in (0, 7, 8, 4000, 7999, 8000, 8002):
        changed = data.clone()
        changed[at] ^= 1
        seen.add(fingerprint(changed))
    swapped = data.clone()
    swapped[:8], swapped[8:16] = data[8:16], data[:8]
    seen.add(fingerprint(swapped))
    assert len(seen) == 9
    assert fingerprint(data.clone()) in seen


def test_a_closure_keeps_what_it_holds():
    """A fix may hold weights where no attribute leads: they are not taken from it."""
    pair, storages = Pair(), Storages(spare=torch.device("cpu"))
    snapshot = Snapshot(pair, storages=storages)
    old, bias = pair.first.weight, pair.first.bias
    pair.first = torch.nn.Linear(16, 4)
    pair.second.register_forward_hook(lambda *_: old.sum() * 0)
    storages.park([pair])
    assert (old.shape, bias.numel()) == ((4, 16), 0)
    snapshot.restore()
    assert pair.first.bias is bias
    assert bias.shape == (4,)


def test_settings_are_given_back_where_the_change_raised(built):
    before = settings()

    def half_way():
        with restored(built):
            globals_(built)
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        half_way()
    assert settings() == before
