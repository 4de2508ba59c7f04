"""Start TensorBoard on this machine alone, with the profiler plugin that needs no internet."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from diffprof.model.errors import UsageError
from diffprof.views.tensorboard.profiler import NAME
from diffprof.views.tensorboard.profiler.version import another_version

HOST = "127.0.0.1"
LOOPBACK = frozenset({HOST, "localhost", "::1"})
FIRST_PORT = 6006
_TRIED_PORTS = 100


def free_port(first: int = FIRST_PORT) -> int:
    """TensorBoard's own port, or the next that is free; any when a hundred are taken."""
    for port in (*range(first, first + _TRIED_PORTS), 0):
        if found := _is_free(port):
            return found
    raise UsageError(f"No port of {HOST} is free.", "Name one with --port.")


def _is_free(port: int) -> int:
    """The port, or for 0 some port, if it can be bound; else 0."""
    with socket.socket() as probe:
        # As the server does; else a port is taken for minutes after a TensorBoard ended.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def start(logdir: Path, port: int | None = None) -> str:
    """Serve on the loopback interface from a thread that ends with the process; returns the address of the
    profiler's page, where it is shown. Others are a click away.

    port: None chooses one. Raises UsageError when the port is taken.
    """
    chosen = free_port() if port is None else port
    if port is not None and not _is_free(port):
        raise UsageError(f"Port {port} of {HOST} is taken.", "Leave --port out to have a free one chosen.")
    for name in ("tensorboard", "pytorch_profiler"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from tensorboard import program

    board = program.TensorBoard(plugins=plugins(), server_class=_loopback_server)
    # The fast loader is another process that prints a note about itself.
    place = ["--host", HOST, "--port", str(chosen), "--load_fast", "false"]
    board.configure(argv=["tensorboard", "--logdir", str(logdir), *place])
    try:
        address = board.launch()
    except program.TensorBoardServerException as error:
        raise UsageError(
            f"TensorBoard can't listen on {HOST}:{chosen}: {error.msg.strip()}",
            "Leave --port out to have a free one chosen.",
        ) from error
    return f"{address.rstrip('/')}/" + ("" if another_version() else f"#{NAME}")


Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""As WSGI has it."""


def only_by_loopback_names(application: Application) -> Application:
    """Answers requests to this machine by its loopback names. Under any other name a page of somebody else's,
    whose name was made to lead here (DNS rebinding), would read the runs."""

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        if _host_of(environ.get("HTTP_HOST", "")) in LOOPBACK:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [f"diffprof answers at http://{HOST} only.\n".encode()]

    return answer


def _host_of(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _loopback_server(application: Application, flags: object) -> object:
    from tensorboard.program import WerkzeugServer

    return WerkzeugServer(only_by_loopback_names(application), flags)


def stop() -> None:
    """End what was started besides the thread that serves."""
    if not another_version():
        from diffprof.views.tensorboard.profiler.loader import end_all

        end_all()


def plugins() -> list[Any]:
    """TensorBoard's plugins, with ours in place of the stock profiler's."""
    from tensorboard import default

    from diffprof.views.tensorboard.plugin import ProfilerPlugin

    stock = ("torch_tb_profiler.", ProfilerPlugin.__module__)
    return [
        *(each for each in default.get_plugins() if not each.__module__.startswith(stock)),
        ProfilerPlugin,
    ]
