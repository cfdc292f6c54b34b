"""The README's pictures of the page, as a browser sees it: `python -m tests.demo.screenshots docs/images`."""

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.browser import Browser, chromium
from tests.demo.conftest import served
from tests.demo.visits import add, log_in


def shop(browser: Browser, address: str) -> None:
    """By day: two tabs have added at the same time; requests, trips and the sealed session beside the shop."""
    browser.resize(1280, 1076)
    browser.visit(address)
    log_in(browser, "Ada")
    add(browser, "mug", "a blue mug")
    browser.click("#second-tab")
    browser.until(lambda: "the cart holds: a blue mug, " in browser.text("#notice"))
    browser.until(lambda: len(browser.all("#cart .line")) == 3)
    browser.run("document.activeElement.blur()")
    browser.run("window.scrollTo({top: 0, behavior: 'instant'})")


def stampede(browser: Browser, address: str) -> None:
    """In the evening: fifty requests have been answered by one computation."""
    browser.prefer("dark")
    browser.resize(1280, 640)
    browser.visit(address)
    log_in(browser, "Ada")
    add(browser, "tea", "green tea")
    browser.click("#stampede-gone")
    browser.until(lambda: browser.text("#stampede-result").startswith("50 of 50"))
    browser.until(lambda: "50 ×" in browser.text(".requests"))
    browser.run("document.activeElement.blur()")
    browser.run("document.getElementById('stampede').scrollIntoView({block: 'center', behavior: 'instant'})")


# --- a quarter smaller ------------------------------------------------------------------------------------------------


def repacked(png: bytes) -> bytes:
    """The same picture without filters: those that Chromium takes suit photographs, and these are flat colours."""
    chunks = list(chunks_of(png))
    header = next(content for name, content in chunks if name == b"IHDR")
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    assert (depth, colour) in ((8, 2), (8, 6)), "a picture of another kind"
    step = 3 if colour == 2 else 4
    filtered = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    lines, before = bytearray(), bytes(width * step)
    for start in range(0, height * (width * step + 1), width * step + 1):
        before = unfiltered(filtered[start], filtered[start + 1 : start + 1 + width * step], before, step)
        lines += b"\0" + before
    body = zlib.compress(bytes(lines), 9)
    return png[:8] + b"".join(
        chunk(name, content) for name, content in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


def chunks_of(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        yield png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        place += 12 + length


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def unfiltered(kind: int, line: bytes, above: bytes, step: int) -> bytes:
    """A line of pixels as it was (PNG, section 9: None, Sub, Up, Average, Paeth)."""
    plain = bytearray(line)
    for place, value in enumerate(line):
        left = plain[place - step] if place >= step else 0
        up, corner = above[place], above[place - step] if place >= step else 0
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda near: abs(guess - near))
        plain[place] = (value + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
    return bytes(plain)


def main(folder: Path) -> None:
    with chromium() as browser:
        for picture in (shop, stampede):
            with served() as address:
                browser.fresh()
                picture(browser, address)
                png = repacked(browser.driver.get_screenshot_as_png())
                (folder / f"{picture.__name__}.png").write_bytes(png)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
