"""What a visitor of the page does again and again, until it is seen to be done."""

from tests.browser import Browser


def log_in(browser: Browser, name: str) -> None:
    browser.write("#name", name)
    browser.click("#log-in")
    browser.until(lambda: browser.text("#greeting") == f"Good day, {name}")


def add(browser: Browser, item: str, name: str) -> None:
    """Put `item` into the cart, which the page calls `name`."""
    browser.click(f"#add-{item}")
    browser.until(lambda: browser.text("#notice") == f"In the cart: {name}.")
