"""A headless Chromium for the tests of HTML pages; they skip where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def start() -> Any:
    """A driver, or a skip with the reason. ``HAKG_CHROMIUM`` and ``HAKG_CHROMEDRIVER`` name other programs."""
    selenium = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    browser = os.environ.get("HAKG_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    driver = os.environ.get("HAKG_CHROMEDRIVER") or shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium with chromedriver on the path, to open pages with")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1200,800")
    return selenium.Chrome(options=options, service=selenium.ChromeService(driver))


def opened(driver: Any, page: Path) -> Any:
    """Open a file; the log of earlier pages is dropped."""
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(page.as_uri())
    return driver


def complaints(driver: Any) -> list[str]:
    """What the browser's console says: errors, and whatever the page's own rules kept out."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Any) -> list[str]:
    """Addresses that the page asked for, itself included."""
    import json

    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = (m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent")
    return [url for url in sent if not url.startswith("data:")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for the tests of a module."""
    driver = start()
    try:
        yield driver
    finally:
        driver.quit()
