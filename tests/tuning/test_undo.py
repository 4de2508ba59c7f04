"""What is changed after a snapshot is given back exactly: modules, tensors, schedulers, classes, settings."""

from __future__ import annotations

import diffusers.utils.torch_utils
import numpy as np
import pytest
import torch

from diffprof.tuning.undo import Snapshot, restored
from tests.tuning.conftest import CALL, built, settings, unchanged  # noqa: F401


def image(pipe):
    return pipe(**CALL, generator=torch.Generator().manual_seed(0)).images


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


def test_two_states_can_be_taken_in_turn(built, unchanged):  # noqa: F811
    plain = Snapshot(built)
    one = image(built)
    written_in_place(built)
    built.unet.to(memory_format=torch.channels_last)
    changed = Snapshot(built, earlier=plain)
    other = image(built)
    assert not np.array_equal(one, other)
    for _ in range(2):
        plain.restore()
        assert np.array_equal(image(built), one)
        changed.restore()
        assert np.array_equal(image(built), other)
    plain.restore()


def test_bytes_are_held_once_where_they_are_the_same(built):  # noqa: F811
    first = Snapshot(built)
    second = Snapshot(built, earlier=first)
    assert {id(copy) for _, copy in second._bytes.values()} <= {id(copy) for _, copy in first._bytes.values()}


def test_settings_are_given_back_where_the_change_raised(built):  # noqa: F811
    before = settings()

    def half_way():
        with restored(built):
            globals_(built)
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        half_way()
    assert settings() == before
