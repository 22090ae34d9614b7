"""Where tests find ONNX Runtime Web and a browser. They are skipped, with the reason, where these are missing."""

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def onnxruntime_web() -> pathlib.Path:
    """The npm package: the folder that JAXUNET_ONNXRUNTIME_WEB names, or node_modules here or in a folder above."""
    named = os.environ.get("JAXUNET_ONNXRUNTIME_WEB")
    beside = [folder / "node_modules" / "onnxruntime-web" for folder in (ROOT, *ROOT.parents)]
    found = pathlib.Path(named) if named else next((folder for folder in beside if folder.is_dir()), None)
    if found is None:
        pytest.skip("no ONNX Runtime Web: npm install onnxruntime-web, or name it with JAXUNET_ONNXRUNTIME_WEB")
    return found


@contextlib.contextmanager
def chromium(downloads: pathlib.Path, *, silent: bool = True) -> Iterator[Any]:
    """A browser without a window. `downloads`: where it saves files. `silent`: pages must log no error."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install '.[test]'")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("the page is not tried in a browser: install chromium and chromedriver (chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield chrome
        errors = [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        chrome.quit()
    assert not (silent and errors), errors


def opened(chrome: Any, address: str) -> Any:
    """The browser, when the page at this address is ready."""
    chrome.get(address)
    wait_for(lambda: chrome.execute_script("return document.documentElement.dataset.ready"))
    return chrome


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the page does not get there"
        time.sleep(0.02)
    return found
