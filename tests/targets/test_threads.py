"""Scripts that call their pipeline on another thread than the one that waits for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.targets import Options, resolve
from diffprof.targets.interception import Interception
from diffprof.targets.threads import told_what_to_do

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")

Write = Callable[[str, str], Path]

WAYS = {
    "thread": """
        worker = threading.Thread(target=call)
        worker.start()
        worker.join()
        """,
    "pool": """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            list(pool.map(lambda n: call(), range(3)))
        """,
    "queue that nobody ends": """
        import queue

        jobs = queue.Queue()

        def serve():
            while True:
                jobs.get()()

        threading.Thread(target=serve, daemon=True).start()
        jobs.put(call)
        while True:
            time.sleep(60)
        """,
    "asyncio": """
        import asyncio

        async def main():
            await asyncio.to_thread(call)
            await asyncio.sleep(60)

        asyncio.run(main())
        """,
    "server": """
        import http.server
        import urllib.request

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                call()

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

        def ask():
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=60)
            except OSError:
                pass

        threading.Thread(target=ask, daemon=True).start()
        server.serve_forever()
        """,
    "server with handlers of its own": """
        import signal

        stop = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        threading.Thread(target=call, daemon=True).start()
        while not stop.wait(0.05):
            pass
        """,
    "event loop that swallows what is raised in a callback": """
        import asyncio

        def callback():
            worker = threading.Thread(target=call)
            worker.start()
            worker.join()
            time.sleep(30)  # until it is told

        loop = asyncio.new_event_loop()
        loop.call_soon(callback)
        loop.run_forever()
        """,
}

TWO_WORKERS = WAYS["pool"].replace("ThreadPoolExecutor(1)", "ThreadPoolExecutor(2)")
"""What the other worker calls while the first call is played runs beside it: what it draws of random numbers
may come after they were put back, seldom and under load."""

HEAD = """
        import threading
        import time

        import torch
        from tiny_pipeline import tiny

        pipe = tiny().to("cuda")

        def call():
            noise = torch.randn(1, device="cuda")
            pipe(num_inference_steps=1, batch_size=int(noise.numel()))
        """


@pytest.mark.parametrize(
    "source",
    [*WAYS.values(), pytest.param(TWO_WORKERS, marks=pytest.mark.slow)],
    ids=[*WAYS, "pool of two"],
)
def test_a_call_on_another_thread_is_scanned_and_ends_the_wait(
    tiny: Path, write: Write, unchanged: None, source: str
) -> None:
    file = write("script.py", HEAD + source)
    device = resolve_device("sim")
    before = signal.getsignal(signal.SIGINT)
    run = threading.Thread.run
    with device.active():
        kwargs, output = resolve(str(file)).run(lambda s: (s.kwargs, s.call()), device, Options())
    assert kwargs == {"num_inference_steps": 1, "batch_size": 1}
    assert len(output.images) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert threading.Thread.run is run


def test_what_playing_raises_on_another_thread_arrives(tiny: Path, write: Write, unchanged: None) -> None:
    file = write("script.py", HEAD + WAYS["queue that nobody ends"])
    device = resolve_device("sim")

    def play(scene: Any) -> None:
        raise ZeroDivisionError("inside")

    with device.active(), pytest.raises(ZeroDivisionError, match="inside"):
        resolve(str(file)).run(play, device, Options())


def test_a_script_that_waits_is_told_what_to_do(capsys: Any, tmp_path: Path) -> None:
    interception = Interception(lambda *_: None)
    waited = threading.Event()
    with told_what_to_do(tmp_path / "server.py", interception, patience_s=0.5):
        waited.wait(3)
    said = capsys.readouterr().err
    assert said.count("has waited for 0.5 seconds") == 1, "once"
    assert "test_threads.py" in said
    assert "waited.wait(3)" in said
    assert "send it the request" in said
    assert "file.py:function" in said


def test_a_script_that_works_is_not(capsys: Any, tmp_path: Path) -> None:
    import time

    end = time.process_time() + 1.0
    with told_what_to_do(tmp_path / "busy.py", Interception(lambda *_: None), patience_s=0.75):
        while time.process_time() < end:
            pass
    assert capsys.readouterr().err == ""


def test_nor_one_that_queues_for_a_cpu(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    for queued, told in ((time.monotonic, False), (lambda: 0.0, True)):
        monkeypatch.setattr("diffprof.targets.threads.queued_s", queued)
        with told_what_to_do(tmp_path / "held_up.py", Interception(lambda *_: None), patience_s=0.5):
            time.sleep(1.5)
        assert ("has waited" in capsys.readouterr().err) is told
