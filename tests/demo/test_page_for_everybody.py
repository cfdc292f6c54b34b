"""The demo's page for everybody: by keyboard, read aloud, in the dark, on a small screen, without motion or scripts."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from axe_core_python.base import AXE_SCRIPT
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser


def logged_out(browser: Browser) -> None:
    """As it begins."""


def with_a_cart(browser: Browser) -> None:
    browser.write("#name", "Ada Lovelace, Countess of a very long name")
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.all("#greeting"))
    browser.click("#add-mug")
    browser.until(lambda: browser.all("#remove-mug"))
    browser.click("#add-tea")
    browser.until(lambda: browser.all("#remove-tea"))


def after_a_stampede(browser: Browser) -> None:
    browser.click("#stampede-gone")
    browser.until(lambda: browser.text("#stampede-result").startswith("50 of 50"))
    browser.until(lambda: browser.text(".requests").count("50 ×"))
    browser.click("#words summary")


STATES = [logged_out, with_a_cart, after_a_stampede]


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest, browser: Browser) -> str:
    browser.prefer(request.param, motion="reduce")  # no colour is half on its way to another
    return str(request.param)


# --- read aloud -------------------------------------------------------------------------------------------------------


def complaints(browser: Browser) -> list[str]:
    """What axe finds: names, roles, landmarks, order of headings, contrast and more, as WCAG 2.2 AA asks."""
    browser.run(AXE_SCRIPT)
    found: dict[str, Any] = browser.driver.execute_async_script(
        "axe.run({resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
    )
    return [
        f"{violation['id']}: {node['html']} {node.get('failureSummary')}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.usefixtures("scheme")
def test_axe_finds_nothing_to_complain_of(browser: Browser, address: str) -> None:
    browser.visit(address)
    for reach in STATES:
        reach(browser)
        assert complaints(browser) == []


@pytest.mark.parametrize("scheme", ["dark"], indirect=True)
def test_axe_finds_nothing_to_complain_of_while_the_store_is_stopped(
    browser: Browser, address_with_a_server: str, scheme: str
) -> None:
    browser.visit(address_with_a_server)
    with_a_cart(browser)
    browser.click("#stop-store")
    browser.until(lambda: browser.all("#start-store"))
    for either in (scheme, "light"):
        browser.prefer(either, motion="reduce")
        assert complaints(browser) == []
    browser.click("#start-store")
    browser.until(lambda: browser.all("#stop-store"))
    assert all("503" in error for error in browser.errors())


def test_landmarks_headings_and_names(browser: Browser, address: str) -> None:
    browser.visit(address)
    with_a_cart(browser)
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    assert {("banner", ""), ("main", ""), ("complementary", "Behind the counter"), ("contentinfo", "")} <= set(seen)
    names = [name for role, name in seen if role == "button"]
    assert "Add a blue mug to the cart" in names
    assert "Take one out (green tea)" in names
    assert all(names)
    assert len(names) == len(set(names))
    assert ("list", "The last requests") in seen
    regions = [name for role, name in seen if role == "region"]
    assert regions == ["On the shelves", "Your cart", "Fifty at once", "Two tabs, one cart", "Without the store"]
    levels = [int(heading.tag_name[1]) for heading in browser.all("h1, h2, h3, h4")]
    assert levels[0] == 1
    assert all(following <= level + 1 for level, following in pairwise(levels))
    assert browser.run("return document.documentElement.lang") == "en"


def test_what_happens_is_announced(browser: Browser, address: str) -> None:
    browser.visit(address)
    browser.run("window.before = document.getElementById('notice')")
    for place in ("notice", "stampede-result"):
        assert browser.run("return getComputedStyle(document.getElementById(arguments[0])).display", place) == "block"
    browser.click("#add-mug")
    browser.until(lambda: browser.text("#notice") == "In the cart: a blue mug.")
    assert browser.run("return window.before === document.getElementById('notice')")
    assert browser.one("#notice").get_attribute("role") == "status"
    assert browser.one("#stampede-result").get_attribute("role") == "status"


# --- by keyboard ------------------------------------------------------------------------------------------------------


def focused(browser: Browser) -> str:
    return str(browser.run("return document.activeElement.id"))


def tab_to(browser: Browser, wanted: str) -> None:
    for _ in range(40):
        if focused(browser) == wanted:
            style = "const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);"
            assert browser.run(style + "return [outlineStyle, outlineWidth]") == ["solid", "3px"]
            return
        browser.press(Keys.TAB)
    raise AssertionError(f"Tab does not lead to #{wanted}")


def test_everything_can_be_done_by_keyboard_alone(browser: Browser, address: str) -> None:
    browser.visit(address)
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.getBoundingClientRect().top") == 0  # it comes into view
    assert browser.run("return document.activeElement.textContent") == "Skip to the goods"
    browser.press(Keys.ENTER)
    browser.until(lambda: focused(browser) == "goods")
    tab_to(browser, "add-mug")
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.all("#remove-mug"))
    assert focused(browser) == "add-mug"

    browser.visit(address)
    tab_to(browser, "name")
    browser.press("Ada", Keys.ENTER)
    browser.until(lambda: browser.text("#greeting") == "Good day, Ada")
    assert focused(browser) == "greeting"
    tab_to(browser, "remove-mug")
    browser.press(Keys.SPACE)
    browser.until(lambda: not browser.all("#remove-mug"))
    assert focused(browser) == "cart-title"
    tab_to(browser, "stampede-gone")
    browser.press(Keys.SPACE)
    browser.until(lambda: browser.text("#stampede-result").startswith("50 of 50"))
    assert focused(browser) == "stampede-gone"
    tab_to(browser, "counter")
    browser.press(Keys.SHIFT + Keys.TAB)
    browser.press(Keys.NULL)
    browser.visit(address)
    tab_to(browser, "log-out")
    browser.press(Keys.ENTER)
    browser.until(lambda: focused(browser) == "name")


# --- how it looks -----------------------------------------------------------------------------------------------------


def test_it_is_dark_in_the_dark(browser: Browser, address: str) -> None:
    browser.visit(address)

    def brightness(of: str) -> int:
        colour = browser.run(f"return getComputedStyle(document.body).{of}")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert brightness("backgroundColor") > brightness("color") + 400
    browser.prefer("dark")
    assert brightness("color") > brightness("backgroundColor") + 400


@pytest.mark.parametrize("reach", STATES)
def test_nothing_sticks_out_at_360_pixels(browser: Browser, address: str, reach: Callable[[Browser], None]) -> None:
    browser.resize(360, 740)
    browser.visit(address)
    reach(browser)
    assert browser.run("return document.documentElement.scrollWidth") == 360
    wide = (
        "return [...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > 360"
        " && !one.closest('pre')).map(one => one.outerHTML.slice(0, 80))"
    )
    assert browser.run(wide) == []
    low = (
        "return [...document.querySelectorAll('button, input:not([type=hidden])')].filter(one =>"
        " one.getBoundingClientRect().height < 36).map(one => one.id)"
    )
    assert browser.run(low) == []


def test_who_wants_no_motion_gets_none(browser: Browser, address: str) -> None:
    moving = (
        "document.documentElement.classList.add('is-busy');"
        "const found = document.getAnimations().length;"
        "document.documentElement.classList.remove('is-busy');"
        "return found"
    )
    browser.visit(address)
    assert browser.run(moving) == 1
    browser.prefer(motion="reduce")
    assert browser.run(moving) == 0


# --- with less --------------------------------------------------------------------------------------------------------


def test_it_needs_nothing_from_elsewhere(browser: Browser, address: str) -> None:
    browser.visit(address)
    fetched = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {name.removeprefix(address) for name in fetched} >= {"/static/page.css", "/static/page.js"}
    assert all(name.startswith(address) for name in fetched)


def test_it_works_without_scripts(browser: Browser, address: str) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.visit(address)
    browser.write("#name", "Ada")
    browser.click("#log-in")
    browser.until(lambda: browser.text("#greeting") == "Good day, Ada")
    browser.click("#add-mug")
    browser.until(lambda: browser.text("#notice") == "In the cart: a blue mug.")
    assert not browser.one("#second-tab").is_displayed()
    browser.click("#stampede-gone")
    browser.until(lambda: "50 of 50 requests answered, 1 computed" in browser.text("#stampede-result"))
    browser.click("#log-out")
    browser.until(lambda: browser.all("#name"))
