"""Scripts that call their pipeline on another thread than the one that waits for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.model.errors import TargetError
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
    "pool of two": """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
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


@pytest.mark.parametrize("source", WAYS.values(), ids=WAYS)
def test_a_call_on_another_thread_is_scanned_and_ends_the_wait(
    tiny: Path, write: Write, unchanged: None, source: str
) -> None:
    file = write("script.py", HEAD + source)
    device = resolve_device("sim")
    before = signal.getsignal(signal.SIGINT)
    run = threading.Thread.run
    with device.active():
        kwargs, output = resolve(str(file)).run(lambda s: (s.kwargs, s.run()), device, Options())
    assert kwargs == {"num_inference_steps": 1, "batch_size": 1}
    assert len(output.images) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert threading.Thread.run is run


COUNTED = """
        import threading
        from tiny_pipeline import tiny
        from diffusers import DDPMPipeline

        class Counted(DDPMPipeline):
            ran, tried = [], []

            def __call__(self, *args, **kwargs):
                self.ran.append(threading.get_ident())
                return super().__call__(*args, **kwargs)

        made = tiny()
        pipe = Counted(made.unet, made.scheduler).to("cuda")
        pipe.set_progress_bar_config(disable=True)

        def call(n=0):
            pipe.tried.append(n)
            return pipe(num_inference_steps=1)
        """

BESIDE = {
    "pool of two": """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(call, range(3)))
        """,
    "pool of four": """
        from concurrent.futures import ThreadPoolExecutor, as_completed

        with ThreadPoolExecutor(4) as pool:
            for each in as_completed([pool.submit(call, n) for n in range(8)]):
                each.result()
        """,
    "multiprocessing.dummy": """
        from multiprocessing.dummy import Pool

        with Pool(2) as pool:
            pool.map(call, range(4))
        """,
    "asyncio.to_thread": """
        import asyncio

        async def main():
            await asyncio.gather(*(asyncio.to_thread(call, n) for n in range(2)))

        asyncio.run(main())
        """,
    "workers of a queue, threads of a class of their own": """
        import queue

        class Worker(threading.Thread):
            def run(self):
                while (job := jobs.get()) is not None:
                    call(job)

        jobs = queue.Queue()
        workers = [Worker(daemon=True) for _ in range(2)]
        for n, each in enumerate(workers):
            each.start()
            jobs.put(n)
        for each in workers:
            each.join()
        """,
    "the main thread": """
        worker = threading.Thread(target=call)
        worker.start()
        call()
        worker.join()
        """,
    "threads that nobody joins": """
        for n in range(2):
            threading.Thread(target=call).start()
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", BESIDE.values(), ids=BESIDE)
def test_nothing_of_the_script_s_is_called_beside_the_call_that_is_played(
    tiny: Path, write: Write, unchanged: None, source: str
) -> None:
    file = write("script.py", COUNTED + source)
    device = resolve_device("sim")

    def play(call: Any) -> Any:
        call.run()
        deadline = time.monotonic() + 60
        while len(call.pipe.tried) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # for the other, which has said that it calls
        call.run()
        assert len(call.pipe.tried) > 1
        return call.pipe.ran, threading.get_ident()

    with device.active():
        ran, own = resolve(str(file)).run(play, device, Options())
    assert ran == [own, own]


WAITED_FOR = {
    "a worker that began before": """
        import queue

        jobs, done = queue.Queue(), queue.Queue()

        def serve():
            while True:
                done.put(jobs.get()())

        threading.Thread(target=serve, daemon=True).start()

        class Outer(DiffusionPipeline):
            def __call__(self):
                jobs.put(call)
                return done.get()
        """,
    "threads that it starts": """
        from concurrent.futures import ThreadPoolExecutor

        class Outer(DiffusionPipeline):
            def __call__(self):
                with ThreadPoolExecutor(2) as pool:
                    return [*pool.map(call, range(2))][0]
        """,
    "a lock that another call has": """
        lock, at_it = threading.Lock(), threading.Event()

        def locked():
            at_it.wait()
            with lock:
                at_it.clear()
                call()

        threading.Thread(target=locked, daemon=True).start()

        class Outer(DiffusionPipeline):
            def __call__(self):
                at_it.set()
                while at_it.is_set():
                    time.sleep(0.01)
                with lock:
                    return call()
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", WAITED_FOR.values(), ids=WAITED_FOR)
def test_a_call_that_the_played_one_waits_for_is_let_through(
    tiny: Path, write: Write, unchanged: None, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr("diffprof.targets.interception.STUCK_S", 0.5)
    imports = "import time\nfrom diffusers import DiffusionPipeline\n"
    file = write("script.py", imports + dedent(COUNTED) + dedent(source) + "\nOuter()()\n")
    device = resolve_device("sim")
    with device.active():
        output = resolve(str(file)).run(lambda call: call.run(), device, Options())
    assert len(output.images) == 1


LEFT = {
    "a call on another thread": (
        """
        done = threading.Event()
        def work():
            other(num_inference_steps=1)
            done.set()
        threading.Thread(target=work, daemon=True).start()
        done.wait()
        call()
        """,
        2,
    ),
    "a server": ("threading.Event().wait()", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "played"), LEFT.values(), ids=LEFT)
def test_a_script_that_waits_after_its_first_call_is_left(
    tiny: Path, write: Write, unchanged: None, monkeypatch: pytest.MonkeyPatch, source: str, played: int
) -> None:
    monkeypatch.setattr("diffprof.targets.threads.PATIENCE_S", 0.5)
    file = write("script.py", dedent(COUNTED) + "\nother = tiny()\ncall()\n" + dedent(source))
    device = resolve_device("sim")

    def play(call: Any) -> str:
        call.run()
        return type(call.pipe).__name__

    with device.active():
        found, missed = resolve(str(file)).run_each(play, play, device, Options())
    assert found == ["Counted", "DDPMPipeline"][:played]
    if played == 1:
        assert missed
        assert all("waited for 0.5 seconds at" in row.why for row in missed)
        assert all("threading.Event().wait()" in row.why for row in missed)


SERVE = """
        import asyncio

        async def client(port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"go\\n")
            await reader.readline()

        async def main():
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            asking = asyncio.create_task(client(server.sockets[0].getsockname()[1]))
            async with server:
                await server.serve_forever()

        async def handle(reader, writer):
            await reader.readline()
            CALL
            writer.close()

        asyncio.run(main())
        """

SERVERS = {
    "on a thread": SERVE.replace("CALL", "await asyncio.to_thread(call)"),
    "in the loop": SERVE.replace("CALL", "call()"),
    "in a group of tasks": """
        import asyncio

        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(call))
                group.create_task(asyncio.sleep(60))

        asyncio.run(main())
        """,
    "that logs what fails": """
        import logging

        def serve():
            try:
                call()
            except BaseException:
                logging.exception("request failed")
                raise

        worker = threading.Thread(target=serve)
        worker.start()
        worker.join()
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SERVERS.values(), ids=SERVERS)
def test_leaving_a_server_is_at_most_one_line(
    tiny: Path, write: Write, unchanged: None, capfd: Any, source: str
) -> None:
    file = write("script.py", HEAD + source)
    device = resolve_device("sim")
    with device.active():
        resolve(str(file)).run(lambda call: call.run(), device, Options())
    said = capfd.readouterr().err
    assert said in ("", f"{file} was left, with all that it served, after the call that is scanned.\n")


CHILDREN = {
    "processes": """
        from multiprocessing import get_context

        processes = [get_context("fork").Process(target=call) for _ in range(2)]
        for each in processes:
            each.start()
        for each in processes:
            each.join()
        """,
    "a pool": """
        from multiprocessing import get_context

        with get_context("fork").Pool(2) as pool:
            pool.map(lambda_, range(2))
        """,
    "an executor": """
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            pool.submit(lambda_).result()
        """,
    "a child of its own": """
        import os

        if not (child := os.fork()):
            call()
        os.waitpid(child, 0)
        time.sleep(60)
        """,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.parametrize("source", CHILDREN.values(), ids=CHILDREN)
def test_a_call_in_a_child_process_ends_the_script_with_a_word(
    tiny: Path, write: Write, unchanged: None, capfd: Any, source: str
) -> None:
    lambda_ = "\n        def lambda_(n=0):\n            return call()\n"
    file = write("script.py", HEAD + lambda_ + source)
    device = resolve_device("sim")
    with device.active(), pytest.raises(TargetError, match="a call that is made there is not scanned"):
        resolve(str(file)).run(lambda call: pytest.fail("played"), device, Options())
    assert "Traceback" not in capfd.readouterr().err


def test_a_pool_that_nobody_shuts_down_does_not_keep_a_script_that_ended(
    tiny: Path, write: Write, unchanged: None
) -> None:
    pool = """
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(2)
        pool.submit(time.sleep, 0.01).result()
        """
    device = resolve_device("sim")
    with device.active():
        with pytest.raises(TargetError, match="ended without calling a pipeline"):
            resolve(str(write("none.py", HEAD + pool))).run(lambda call: call.run(), device, Options())
        later = "\n        pool.submit(time.sleep, 0.3)\n        pool.submit(call)\n"
        output = resolve(str(write("late.py", HEAD + pool + later))).run(lambda s: s.run(), device, Options())
    assert len(output.images) == 1


def test_what_playing_raises_on_another_thread_arrives(tiny: Path, write: Write, unchanged: None) -> None:
    file = write("script.py", HEAD + WAYS["queue that nobody ends"])
    device = resolve_device("sim")

    def play(call: Any) -> None:
        raise ZeroDivisionError("inside")

    with device.active(), pytest.raises(ZeroDivisionError, match="inside"):
        resolve(str(file)).run(play, device, Options())


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_script_that_works_is_not(capsys: Any, tmp_path: Path) -> None:
    import time

    end = time.process_time() + 1.0
    with told_what_to_do(tmp_path / "busy.py", Interception(lambda *_: None), patience_s=0.75):
        while time.process_time() < end:
            pass
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_nor_one_that_queues_for_a_cpu(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    for queued, told in ((time.monotonic, False), (lambda: 0.0, True)):
        monkeypatch.setattr("diffprof.targets.threads.queued_s", queued)
        with told_what_to_do(tmp_path / "held_up.py", Interception(lambda *_: None), patience_s=0.5):
            time.sleep(1.5)
        assert ("has waited" in capsys.readouterr().err) is told
