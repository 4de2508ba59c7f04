"""Libraries that talk while they are imported."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Keep the remarks that libraries make while they are imported off the terminal; errors still show.

    What the user has set stays: each is a default for this process and its children.
    """
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Above the profiler's highest level, which is of its start and stop (kineto, ILoggerObserver.h).
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
