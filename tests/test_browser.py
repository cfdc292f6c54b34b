"""The browser for the tests: named in one line where it is missing, and each test begins with a fresh one."""

from pathlib import Path

import pytest

from tests.browser import Browser, chromium


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)], ids=["at home", "in CI"]
)
@pytest.mark.parametrize(
    ("there", "line"),
    [
        ([], "chromium is missing here: 'apt-get install chromium' brings it"),
        (["chromium"], "chromedriver is missing here: 'apt-get install chromium-driver' brings it"),
    ],
    ids=["no browser", "no driver"],
)
def test_a_missing_browser_is_a_skip_and_in_ci_a_failure(
    ci: str,
    outcome: type[BaseException],
    there: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for program in there:
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="^" + line), chromium():
        pass


def test_a_fresh_one_knows_nothing_of_the_last_test(chromium_of_this_worker: Browser) -> None:
    browser = chromium_of_this_worker
    browser.fresh()
    browser.run("console.error('of the last test'); window.open('about:blank')")
    browser.resize(360, 740)
    browser.prefer("dark")
    browser.fresh()
    assert browser.errors() == []
    assert len(browser.driver.window_handles) == 1
    assert browser.run("return innerWidth") == 1280
    assert not browser.run("return matchMedia('(prefers-color-scheme: dark)').matches")


def test_what_never_comes_is_told_with_the_page_s_text(
    chromium_of_this_worker: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = chromium_of_this_worker
    browser.fresh()
    browser.run("document.body.textContent = 'as it is'")
    monkeypatch.setattr("tests.browser.PATIENCE", 0.05)
    with pytest.raises(AssertionError, match="the page says: as it is"):
        browser.until(lambda: "something else" in browser.text("body"))
