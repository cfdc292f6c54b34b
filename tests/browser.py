"""A real browser for the tests: Debian's Chromium without a window, driven over WebDriver.

It keeps to the machine (no updates, no background requests) and writes into an empty folder of its own. One is shared
by the tests of a worker; each begins with `fresh()`. Nothing sleeps: `until` asks again and again for what can be seen.
A browser that is not there is named with the command that brings it, as a server is (`tests.servers`).

    with chromium() as browser:
        browser.visit(url)
        browser.click("#log-in")
        browser.until(lambda: "Good day" in browser.text("#account"))
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.servers import on_path

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
PATIENCE = 20.0
POLL_INTERVAL = 0.02

T = TypeVar("T")


class Browser:
    """What tests do with it. `driver`: Selenium's, for the rest."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def fresh(self) -> None:
        """As if it had just been started: one empty tab, no cookies, light, 1280 pixels wide."""
        first, *others = self.driver.window_handles
        for tab in others:
            self.driver.switch_to.window(tab)
            self.driver.close()
        self.driver.switch_to.window(first)
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        self.resize(1280, 900)
        self.prefer()
        self.errors()

    def visit(self, url: str) -> None:
        self.driver.get(url)

    def resize(self, width: int, height: int) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def prefer(self, scheme: str = "light", *, motion: str = "no-preference") -> None:
        """What the visitor's system says: `light` or `dark`, and `reduce` for who wants no motion."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text that is seen, "" where the element is not."""
        return " ".join(element.text for element in self.all(selector))

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def write(self, selector: str, text: str) -> None:
        self.one(selector).send_keys(text)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, look: Callable[[], T]) -> T:
        """Look again and again until there is something to see, and return it."""
        give_up_at = time.monotonic() + PATIENCE
        while True:
            try:
                if seen := look():
                    return seen
            except (NoSuchElementException, StaleElementReferenceException):
                pass
            if time.monotonic() > give_up_at:
                raise AssertionError(f"not seen within {PATIENCE:.0f} s; the page says: {self.text('body')}")
            time.sleep(POLL_INTERVAL)

    def errors(self) -> list[str]:
        """What the browser complained about since it was last asked: errors of scripts, resources and policies."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


@contextmanager
def chromium() -> Iterator[Browser]:
    program, driver_program = on_path("chromium"), on_path("chromedriver", package="chromium-driver")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        options = ChromeOptions()
        options.binary_location = str(program)
        for option in (*OPTIONS, f"--user-data-dir={folder}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = Chrome(options, ChromeService(str(driver_program), log_output=str(Path(folder) / "driver.log")))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
