"""A headless Chromium that reaches this machine alone, and a log of everything that it asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1500,1100",
    # Every other name resolves to nothing: what a page asks for elsewhere fails, and is seen.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Browser:
    """What the tests do with a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.requests: list[str] = []

    def open(self, address: str) -> None:
        self.driver.get(address)

    def text(self) -> str:
        """All text that the page shows, in its shadow roots and frames of the same origin too."""
        return str(self.driver.execute_script(_TEXT))

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Until `ready` gives something true; fails with what was waited for and what the page showed."""
        from selenium.common.exceptions import TimeoutException, WebDriverException
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(self.driver, seconds, 0.25, ignored_exceptions=(WebDriverException,))
        try:
            return waiting.until(lambda _: ready())
        except TimeoutException:
            pytest.fail(f"{what} did not show; the page says: {self.text()[:1500]}")

    def wait_for(self, *texts: str, seconds: float = 60) -> str:
        """Until the page shows all of them; returns what it shows."""

        def shown() -> str | None:
            found = self.text()
            return found if all(text in found for text in texts) else None

        return str(self.wait(shown, " and ".join(map(repr, texts)), seconds))

    def errors(self) -> list[str]:
        """What the pages complained of since the last call."""
        return [
            str(entry["message"]) for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"
        ]

    def asked(self) -> list[str]:
        """Everything that was asked for since the browser started, by address."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return self.requests

    def left_the_machine(self) -> list[str]:
        """What was asked of anyone else."""
        inside = ("data", "blob", "chrome", "about", "file")
        return [
            address
            for address in self.asked()
            if (parts := urlsplit(address)).scheme not in inside and parts.hostname != "127.0.0.1"
        ]


_TEXT = """
const seen = [];
const walk = (root) => {
  for (const node of root.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) { if (node.data.trim()) seen.push(node.data); continue; }
    if (node.nodeType !== Node.ELEMENT_NODE && node.nodeType !== Node.DOCUMENT_FRAGMENT_NODE) continue;
    if (node.tagName === 'SCRIPT' || node.tagName === 'STYLE' || node.tagName === 'TEMPLATE') continue;
    if (node.shadowRoot) walk(node.shadowRoot);
    if (node.tagName === 'IFRAME') { try { walk(node.contentDocument.body); } catch (error) {} }
    if (node.tagName === 'INPUT') seen.push(node.value);
    walk(node);
  }
};
walk(document.body);
return seen.join('\\n');
"""


def missing() -> str:
    """Why no browser can be started; empty if one can."""
    if find_spec("selenium") is None:
        return "selenium is not installed"
    if _chromium() is None or shutil.which("chromedriver") is None:
        return "Chromium or its driver is not installed (Debian: chromium, chromium-driver)"
    return ""


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def started(profile: Path, *switches: str) -> Iterator[Browser]:
    """A browser with a profile of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(_chromium())
    for switch in (*SWITCHES, f"--user-data-dir={profile}", *switches):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=webdriver.ChromeService(shutil.which("chromedriver")), options=options)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Skips where Chromium, its driver or selenium is missing."""
    if reason := missing():
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def address() -> Callable[[Path], str]:
    return lambda path: path.resolve().as_uri()
