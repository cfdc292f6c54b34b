"""The demo's page, clicked on in a real browser: what a visitor does, and what he sees of it."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.browser import Browser
from tests.demo.visits import add, log_in


@pytest.fixture
def shop(browser: Browser, address: str) -> Browser:
    browser.visit(address)
    return browser


@pytest.fixture
def ada(shop: Browser) -> Browser:
    """Somebody who is logged in."""
    log_in(shop, "Ada")
    return shop


def rows(browser: Browser) -> list[str]:
    """The rows of the side panel, the newest first."""
    return [" ".join(row.text.split()) for row in browser.all(".requests > li")]


# --- the shop ---------------------------------------------------------------------------------------------------------


def test_logging_in_greets_by_name_under_a_new_id(shop: Browser) -> None:
    add(shop, "mug", "a blue mug")
    before = shop.driver.get_cookie("session")
    log_in(shop, "Ada")
    after = shop.driver.get_cookie("session")
    assert before is not None
    assert after is not None
    assert before["value"] != after["value"]
    assert (after["httpOnly"], after["sameSite"]) == (True, "Lax")
    assert "a blue mug" in shop.text("#cart")


def test_a_name_is_shown_as_it_is_and_never_run(shop: Browser) -> None:
    name = "<img src=x onerror=alert(1)>"
    log_in(shop, name)
    assert name in shop.text("#app-sees")
    assert not shop.all("#account img, #app-sees img")


def test_the_cart_is_kept_in_the_session(ada: Browser, address: str) -> None:
    add(ada, "mug", "a blue mug")
    add(ada, "tea", "green tea")
    add(ada, "mug", "a blue mug")
    ada.visit(address)
    assert ada.text("#cart ul").split("\n")[0].startswith("2 × a blue mug")
    assert ada.text("#total") == "€38.90"
    ada.click("#remove-mug")
    ada.until(lambda: ada.text("#total") == "€24.40")


def test_the_list_is_slow_once_and_then_comes_from_the_cache(shop: Browser) -> None:
    shop.click("#forget")
    shop.until(lambda: shop.text(".origin .chip") == "miss")
    counted_at = shop.text("#counted-at")
    assert milliseconds_for_the_list(shop) > 790

    def fast() -> bool:
        shop.click("#look-again")
        return shop.text(".origin .chip") == "hit" and milliseconds_for_the_list(shop) < 20

    shop.until(fast)
    assert shop.text("#counted-at") == counted_at


def milliseconds_for_the_list(browser: Browser) -> float:
    return float(re.findall(r"([\d.]+) ms", browser.text("#list-origin"))[0])


def test_logging_out_ends_the_session(ada: Browser, address: str) -> None:
    add(ada, "mug", "a blue mug")
    cookie = ada.driver.get_cookie("session")
    assert cookie is not None
    ada.click("#log-out")
    ada.until(lambda: ada.all("#name"))
    assert "You are logged out" in ada.text("#notice")
    assert ada.driver.get_cookie("session") is None
    assert "Nothing in it yet." in ada.text("#cart")
    ada.driver.add_cookie({"name": "session", "value": cookie["value"]})
    ada.visit(address)
    assert ada.all("#name")


def test_a_second_tab_that_adds_at_the_same_time_loses_nothing(ada: Browser) -> None:
    add(ada, "mug", "a blue mug")
    first = ada.driver.current_window_handle
    ada.click("#second-tab")
    everything = "the cart holds: a blue mug, "
    ada.until(lambda: everything in ada.text("#notice"))
    second = next(tab for tab in ada.driver.window_handles if tab != first)
    for tab in (first, second):
        ada.driver.switch_to.window(tab)
        ada.until(lambda: everything in ada.text("#notice"))
        ada.until(lambda: {"a blue mug", "green tea", "some honey"} == names_in_the_cart(ada))
    posts = [row for row in rows(ada) if row.startswith("POST /cart")][:2]
    assert len([row for row in posts if "refused: merged" in row]) == 1
    assert {"copy A", "copy B"} == {found for row in posts for found in re.findall("copy .", row)}


def names_in_the_cart(browser: Browser) -> set[str]:
    return {line.text.partition("× ")[2] for line in browser.all("#cart .line")}


def test_what_a_second_tab_does_is_seen_in_the_first(ada: Browser) -> None:
    first = ada.driver.current_window_handle
    ada.click("#tabs a[target=_blank]")
    ada.until(lambda: len(ada.driver.window_handles) == 2)
    ada.driver.switch_to.window(next(tab for tab in ada.driver.window_handles if tab != first))
    add(ada, "tin", "a tin for tea")
    ada.driver.switch_to.window(first)
    ada.until(lambda: names_in_the_cart(ada) == {"a tin for tea"})


# --- the stampede -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_fifty_requests_at_once_are_one_computation(shop: Browser, motion: str) -> None:
    shop.prefer(motion=motion)
    shop.click("#stampede-gone")
    shop.until(lambda: "50 of 50 requests answered, 1 computed" in shop.text("#stampede-result"))
    assert [shop.text(f"#{count}") for count in ("asked", "answered", "computed")] == ["50", "50", "1"]
    lines = shop.run(
        "return [...document.querySelectorAll('#chart .requests line')].map("
        "line => [line.getAttribute('class'), +line.getAttribute('x1'), +line.getAttribute('x2')])"
    )
    (work,) = shop.run(
        "return [...document.querySelectorAll('#chart .works rect')].map("
        "bar => [+bar.getAttribute('x'), +bar.getAttribute('x') + +bar.getAttribute('width')])"
    )
    assert len(lines) == 50
    assert {name for name, _, _ in lines} == {"copy-a done", "copy-b done"}
    assert sum(begin < work[1] <= end for _, begin, end in lines) > 40  # all, unless this machine stood still
    shop.until(lambda: any(row.startswith("50 × GET /products 200 copy A and B") for row in rows(shop)))


def test_the_stampede_is_drawn_while_it_runs(shop: Browser) -> None:
    shop.click("#stampede-gone")
    seen = set()

    def over() -> bool:
        seen.add((shop.text("#asked"), shop.text("#answered")))
        return shop.text("#answered") == "50"

    shop.until(over)
    assert any(int(asked) > 0 and answered == "0" for asked, answered in seen)


def test_fifty_requests_for_an_old_list_do_not_wait(shop: Browser) -> None:
    shop.click("#stampede-old")
    shop.until(lambda: "50 of 50 requests answered, 1 computed" in shop.text("#stampede-result"))
    assert re.search(r"\b49 stale", shop.text("#stampede-result"))


def test_an_answer_that_is_no_page_is_shown_in_words(shop: Browser) -> None:
    shop.run("document.querySelector('.good input').value = 'the moon'")
    shop.click("#add-mug")
    shop.until(lambda: shop.text("#notice") == "The shop answers 404: The shop has no such thing.")
    assert all("404" in error for error in shop.errors())


# --- behind the counter -----------------------------------------------------------------------------------------------


def test_the_panel_shows_trips_and_their_times_and_what_the_cache_answered(ada: Browser) -> None:
    ada.click("#forget")
    ada.until(lambda: "miss" in rows(ada)[0])
    add(ada, "mug", "a blue mug")
    page, post, *_ = rows(ada)
    time = r"\d+(\.\d+)? ms"
    assert re.fullmatch(rf"GET / this page copy [AB] hit 2 trips session read {time} list read {time}", page)
    assert re.fullmatch(rf"POST /cart 303 copy [AB] {time} 2 trips session read {time} session write {time}", post)
    ada.click("#stampede-gone")
    ada.until(lambda: re.search(r"^50 × .* 1 miss \d+ wait", rows(ada)[1]))
    ada.click("#stampede-old")
    ada.until(lambda: re.search("^50 × .* 49 stale", rows(ada)[1]))


def test_the_panel_shows_sealed_bytes_beside_what_the_app_sees(ada: Browser) -> None:
    add(ada, "mug", "a blue mug")
    user, shown = ada.text("#app-sees").split("\n")
    assert user.split() == ["user_id", "Ada"]
    assert json.loads(shown) == {"cart": ["mug"]}
    assert re.fullmatch(r"demo-[0-9a-f]{8}:session:[\w-]{43}", ada.text("#store-key"))
    held = bytes_held(ada)
    assert len(held) == int(re.findall(r"(\d+) bytes", ada.one("#store-holds").get_attribute("aria-label") or "")[0])
    assert held[8:10] == b"ss"
    assert b"mug" not in held
    assert re.search("version 8 bytes.* ciphertext .* tag 16 bytes", " ".join(ada.text(".parts").split()))
    add(ada, "tea", "green tea")
    assert bytes_held(ada)[:8] != held[:8]


def bytes_held(browser: Browser) -> bytes:
    """What the panel says that the store holds."""
    return bytes.fromhex(browser.text("#store-holds .hex"))


# --- without the store ------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(browser: Browser, address_with_a_server: str) -> Iterator[Browser]:
    """Ada has something in her cart, and the store is stopped; it runs again afterwards."""
    ada = browser
    ada.visit(address_with_a_server)
    log_in(ada, "Ada")
    add(ada, "mug", "a blue mug")
    ada.click("#stop-store")
    ada.until(lambda: ada.all("#start-store"))
    yield ada
    if ada.all("#start-store"):
        ada.click("#start-store")
        ada.until(lambda: ada.all("#stop-store"))
    assert all("503" in error for error in ada.errors())


def test_while_the_store_is_stopped_the_list_still_comes(stopped: Browser) -> None:
    assert stopped.text(".origin .chip") == "no store"
    assert len(stopped.all(".good")) == 6
    assert re.search("503 .* no store .* session read .* failed", rows(stopped)[0])

    def within_50_ms_of_counting() -> bool:
        stopped.click("#look-again")
        return 790 < milliseconds_for_the_list(stopped) < 850

    stopped.until(within_50_ms_of_counting)


def test_while_the_store_is_stopped_what_needs_the_session_is_a_503_in_words(stopped: Browser) -> None:
    stopped.click("#add-tea")
    stopped.until(lambda: "this was not done" in stopped.text("#notice"))
    assert "503" in stopped.text("#cart")
    assert "Your session" in stopped.text("#counter")
    assert rows(stopped)[0].startswith("POST /cart 503")
    answer = stopped.run(
        "return fetch('/cart', {method: 'POST', body: new URLSearchParams({item: 'tea'})})"
        ".then(answer => [answer.status, answer.headers.get('retry-after')])"
    )
    assert answer == [503, "1"]


def test_when_the_store_runs_again_all_is_well(stopped: Browser) -> None:
    stopped.click("#start-store")
    stopped.until(lambda: stopped.text("#notice") == "The store runs again, and has kept everything.")
    assert stopped.run("return document.activeElement.id") == "stop-store"  # in the place of the one that was pressed
    assert stopped.text("#greeting") == "Good day, Ada"
    assert names_in_the_cart(stopped) == {"a blue mug"}
    add(stopped, "tea", "green tea")
    assert names_in_the_cart(stopped) == {"a blue mug", "green tea"}

    def hit() -> bool:
        stopped.click("#look-again")
        return stopped.text(".origin .chip") == "hit"

    stopped.until(hit)
