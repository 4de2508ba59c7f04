"""A live pipeline keeps what helped, and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDIMScheduler

import diffprof
from diffprof.model.fix import Status
from tests.tuning.conftest import CALL


def test_what_helped_is_left_on_the_pipeline(built):
    own = built.scheduler
    built.scheduler = DDIMScheduler.from_config(own.config)
    try:
        before = built(**CALL, generator=torch.Generator().manual_seed(0)).images
        report = diffprof.optimize(built, device="sim:a100-80gb", select=("SYN002",), **CALL)
        assert [o.fix for o in report.outcomes if o.status is Status.KEPT] == ["host-timesteps"]
        assert next(built.unet.parameters()).device.type == "cpu"
        after = diffprof.scan(built, device="sim:a100-80gb", analyzers=("syncs",), **CALL)
        assert after.in_loop == ()
        assert np.array_equal(built(**CALL, generator=torch.Generator().manual_seed(0)).images, before)
    finally:
        built.scheduler = own
