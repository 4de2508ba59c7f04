"""Who gets an answer."""

from __future__ import annotations

from typing import Any

import pytest

from diffprof.views.tensorboard.server import only_by_loopback_names


def asked(host: str | None) -> str:
    """The status of the answer to a request with this Host header."""
    said: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"the runs"]

    environ = {} if host is None else {"HTTP_HOST": host}
    answer = only_by_loopback_names(application)(environ, lambda status, headers: said.append(status))
    assert (b"the runs" in b"".join(answer)) == (said == ["200 OK"])
    return said[0]


@pytest.mark.parametrize("host", ["localhost:6006", "127.0.0.1:6006", "LOCALHOST", "[::1]:6006", "127.0.0.1"])
def test_this_machine_by_its_loopback_names(host: str) -> None:
    assert asked(host) == "200 OK"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:6006",
        "localhost.evil.example",
        "127.0.0.1.evil.example:6006",
        "evil.example@localhost.evil",
        "10.0.0.5:6006",
        "[::1",
        "",
        None,
    ],
)
def test_no_other_name(host: str | None) -> None:
    assert asked(host) == "403 Forbidden"


@pytest.mark.nightly
def test_the_server_itself(tmp_path: Any) -> None:
    import http.client
    from urllib.parse import urlsplit

    from diffprof.views.tensorboard.server import start, stop

    at = urlsplit(start(tmp_path))
    try:
        for host, status in ((f"localhost:{at.port}", 200), ("evil.example", 403)):
            connection = http.client.HTTPConnection("127.0.0.1", at.port or 0, timeout=30)
            connection.request("GET", "/data/plugins_listing", headers={"Host": host})
            assert connection.getresponse().status == status
    finally:
        stop()
