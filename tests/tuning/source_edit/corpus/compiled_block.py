import torch
import warnings
import logging
from torch import nn

logger = logging.getLogger(__name__)


class Block(nn.Module):
    debug: bool = True

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.register_buffer("table", torch.linspace(0, 1, 8))
        self.calls = 0

    def forward(self, x, temb=None):
        if self.debug:
            print("in", x.shape)
            logger.info("%s", x.dtype)
        self.calls += 1
        logger.warning("slow path")
        warnings.warn("really", stacklevel=2)
        print(self.count(), "calls")
        print("x", x.mean(), file=self.out)
        if x.max() > 10:
            x = x.clamp(max=10)
        out = self.inner(x)
        y = out.sample
        print(out)
        return y

    def count(self):
        return self.calls
