"""What every worker that runs pipelines imports first: once, where processes are forked of one that has."""

from __future__ import annotations

import threading
import warnings
from importlib import import_module

from diffprof.model.collection import leave_to_the_system
from diffprof.model.quiet import quiet_libraries

MODULES = (
    "torch",
    "torchao.quantization",
    "peft",
    "diffusers.pipelines.pipeline_utils",
    "diffprof.scanning.predicting",
)

quiet_libraries()
# Of hundreds of pipelines, each would say it again.
warnings.filterwarnings("ignore", category=FutureWarning)
for _name in MODULES:
    import_module(_name)
# What is imported lives as long as the process: no collection of a worker looks through it again.
leave_to_the_system()
# One lock for the threads of a process: tqdm's own spans processes, and is left behind by one that is ended.
import_module("tqdm").tqdm.set_lock(threading.RLock())
