"""A live pipeline keeps what helped, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import diffprof
from diffprof.model.fix import Status
from tests.fake_cuda import micro


@pytest.mark.slow
def test_what_helped_is_left_on_the_pipeline():
    pipe, call = micro.stable_diffusion()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    before = pipe(**call, generator=torch.Generator().manual_seed(0)).images
    report = diffprof.optimize(pipe, device="sim:a100-80gb", select=("SYN002",), **call)
    assert [o.fix for o in report.outcomes if o.status is Status.KEPT] == ["host-timesteps"]
    assert next(pipe.unet.parameters()).device.type == "cpu"
    after = diffprof.scan(pipe, device="sim:a100-80gb", analyzers=("syncs",), **call)
    assert after.in_loop == ()
    assert np.array_equal(pipe(**call, generator=torch.Generator().manual_seed(0)).images, before)
