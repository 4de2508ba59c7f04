"""For each sync rule, a recording that fires exactly it and one that is the mended form of the same code."""

from __future__ import annotations

from diffprof.model.recording import Recording
from tests.builders import make_recording, make_site, make_sync

BAD: dict[str, Recording] = {
    "SYN001": make_recording(make_sync("value-read", owner="scheduler.sigmas", owner_device="device")),
    "SYN002": make_recording(
        make_sync("value-read", owner="scheduler.alphas_cumprod", owner_device="cpu", index="timestep")
    ),
    "SYN003": make_recording(make_sync("data-dependent-shape", op="aten::nonzero")),
    "SYN004": make_recording(make_sync("device-to-host", in_loop=False)),
    "SYN005": make_recording(make_sync("host-to-device", in_loop=False)),
    "SYN006": make_recording(make_sync("staged-copy", in_loop=False)),
    "SYN007": make_recording(make_sync("tensor-from-device-scalars")),
    "SYN008": make_recording(make_sync("host-to-device", constant=True)),
    "SYN009": make_recording(make_sync("synchronize")),
    "SYN010": make_recording(make_sync("host-to-device", offload=True, bytes=1 << 20)),
    "SYN011": make_recording(make_sync("library-check", op="aten::_linalg_check_errors")),
}

GOOD: dict[str, Recording] = {
    # The table is on the CPU: its value is at hand, and what waits is the index.
    "SYN001": make_recording(make_sync("value-read", owner="scheduler.sigmas", owner_device="cpu")),
    # The table lies where its index does.
    "SYN002": make_recording(
        make_sync("value-read", owner="scheduler.alphas_cumprod", owner_device="device", index="timestep")
    ),
    # Of a mask only one value is asked for, which has a fixed shape.
    "SYN003": make_recording(make_sync("value-read", op="aten::any")),
    # The finished image is copied once, by code that offloading does not move: still a copy, so none here.
    "SYN004": make_recording(make_sync("host-to-device", in_loop=False)),
    # Uploaded anew in each step is another rule's subject.
    "SYN005": make_recording(make_sync("host-to-device")),
    "SYN006": make_recording(make_sync("host-to-device", in_loop=False)),
    "SYN007": make_recording(make_sync("value-read")),
    # Uploaded in one step only.
    "SYN008": make_recording(
        make_sync("host-to-device", count=1, by_step=(1, 0, 0, 0), per_step=0.0, first_step_only=True)
    ),
    # The copy that takes the result waits by itself.
    "SYN009": make_recording(make_sync("device-to-host", in_loop=False)),
    "SYN010": make_recording(make_sync("host-to-device")),
    "SYN011": make_recording(make_sync("value-read", site=make_site(line=1))),
}
