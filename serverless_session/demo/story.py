"""What the visitor does, request by request, over two sandboxes of the shop; `run` plays it.

Where two requests overlap they do so in one fixed way: both have loaded the session before either saves. Nothing here
judges what comes out: `promises` does, from what was recorded.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Literal

from serverless_session.demo.beside import described, opener, parts_of, probe, remove, with_store
from serverless_session.demo.browser import Browser, SetCookie
from serverless_session.demo.events import event
from serverless_session.demo.promises import Record, judge
from serverless_session.demo.report import Report, Step, Stored
from serverless_session.demo.sandboxes import Invocation, ShopSandbox
from serverless_session.stores.contract import Found, Missing, Read, Store

VISITOR: Final = "ada@example.com"
MUG, TEA, HONEY = "a blue mug", "green tea", "some honey"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A request that was sent and is not answered yet."""

    number: int
    name: str
    what: str
    request: str
    sandbox: str
    promised: int
    future: Future[Invocation]


class _Visit:
    """Sends requests and records what comes back."""

    def __init__(self, browser: Browser) -> None:
        self.record = Record()
        self.browser = browser
        self._begun = 0

    def play(self, sandbox: ShopSandbox, name: str, what: str, request: str, promised: int, **more: Any) -> Step:
        """One request from its beginning to its end."""
        return self.end(self.begin(sandbox, name, what, request, promised, **more))

    def begin(
        self,
        sandbox: ShopSandbox,
        name: str,
        what: str,
        request: str,
        promised: int,
        *,
        cookie: str | None = None,
        data: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> _Running:
        """Send a request with the browser's cookies, or with `cookie` as the id in place of them."""
        method, path = request.split()
        cookies = self.browser.cookies if cookie is None else (f"session={cookie}",)
        self._begun += 1
        return _Running(
            number=self._begun,
            name=name,
            what=what,
            request=request,
            sandbox=sandbox.name,
            promised=promised,
            future=sandbox.begin(event(method, path, cookies=cookies, data=data, form=form)),
        )

    def end(self, running: _Running) -> Step:
        """Wait for its answer and take its cookies."""
        invocation = running.future.result()
        set_cookies = [SetCookie.of(line) for line in invocation.answer.get("cookies", ())]
        self.browser.take(set_cookies)
        change: Literal["", "set", "removed"] = ""
        for cookie in set_cookies:
            change = "removed" if cookie.removes else "set"
            if not cookie.removes:
                self.record.session_ids.append(cookie.value)
        self.record.set_cookies += set_cookies
        self.record.operations += invocation.operations
        step = Step(
            number=running.number,
            name=running.name,
            what=running.what,
            request=running.request,
            sandbox=running.sandbox,
            status=invocation.answer["statusCode"],
            session=_session_in(invocation.answer),
            cookie=change,
            asked=tuple(type(operation).__name__.lower() for operation in invocation.operations),
            trips=invocation.trips,
            trips_promised=running.promised,
            milliseconds=invocation.seconds * 1000,
        )
        self.record.steps[step.name] = step
        return step


def run(store: Store | str = "memory://") -> Report:
    """Play the visit over `store`, a URL or a `Store`, and say what happened and which promises held.

    Each sandbox opens a URL anew, `memory://` excepted, which they share. Whatever was written is removed in the end.
    Raises `ConfigurationError` for a store that cannot be opened or does not answer.
    """
    record = play(store)
    return Report(
        store=described(store),
        steps=tuple(sorted(record.steps.values(), key=lambda step: step.number)),
        stored=record.stored,
        verdicts=judge(record),
        seconds=record.seconds,
    )


def play(store: Store | str) -> Record:
    """Play the visit and record it."""
    open_store = opener(store)
    namespace, secret = f"demo-{os.urandom(4).hex()}", os.urandom(32).hex()
    asyncio.run(with_store(open_store, lambda opened: probe(opened, f"{namespace}:probe")))
    visit = _Visit(Browser())
    record = visit.record
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(contextlib.closing(ShopSandbox(name, open_store, secret=secret, namespace=namespace)))
            for name in "AB"
        )
        try:
            _play(visit, one, two, lambda key: asyncio.run(with_store(open_store, lambda opened: _look(opened, key))))
        finally:
            record.seconds = time.perf_counter() - began
            keys = {operation.key for operation in record.operations}
            asyncio.run(with_store(open_store, lambda opened: remove(opened, keys)))
    return record


def _play(visit: _Visit, one: ShopSandbox, two: ShopSandbox, look: Callable[[str], Found | Missing]) -> None:
    browser, record = visit.browser, visit.record
    visit.play(one, "arrive", "opens the shop (no cookie)", "GET /cart", 0)
    visit.play(one, "log-in", "logs in", "POST /login", 1, form={"email": VISITOR})
    visit.play(two, "add", f"adds {MUG}", "POST /cart", 2, data={"item": MUG})

    one.gate.shut()
    two.gate.shut()
    first = visit.begin(one, "add-first", f"adds {TEA} ...", "POST /cart", 2, data={"item": TEA})
    second = visit.begin(two, "add-second", f"... and {HONEY} at once", "POST /cart", 3, data={"item": HONEY})
    one.gate.wait_until_reached(first.future)
    two.gate.wait_until_reached(second.future)  # both have loaded the session now
    one.gate.open()
    visit.end(first)
    two.gate.open()
    visit.end(second)

    looked = visit.play(one, "look", "looks at the cart", "GET /cart", 1)
    record.stored = _stored(record, looked, look)

    before = browser.session_id or "none"
    visit.play(one, "new-id", "confirms the password: new id", "POST /login", 3, form={"email": VISITOR})
    visit.play(two, "replay-old", "the old id is tried", "GET /cart", 1, cookie=before)

    current = browser.session_id or "none"
    two.gate.shut()
    slow = visit.begin(two, "slow", "asks when it comes (slow) ...", "POST /delivery", 2)
    two.gate.wait_until_reached(slow.future)
    visit.play(one, "log-out", "... and logs out meanwhile", "POST /logout", 2)
    two.gate.open()
    visit.end(slow)
    visit.play(one, "after", "looks at the cart again", "GET /cart", 0)
    visit.play(two, "replay-ended", "the ended id is tried", "GET /cart", 1, cookie=current)
    visit.play(one, "forged", "a made-up id is tried", "GET /cart", 0, cookie=_forged(current))


def _session_in(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The session that the app answered with; None where something else answered."""
    if answer["statusCode"] != 200:
        return None
    body = answer["body"]
    session: Mapping[str, Any] = json.loads(base64.b64decode(body) if answer["isBase64Encoded"] else body)
    return session


def _forged(genuine: str) -> str:
    """An id that differs from a genuine one in a single character."""
    middle = len(genuine) // 2
    other = "A" if genuine[middle] != "A" else "B"
    return genuine[:middle] + other + genuine[middle + 1 :]


async def _look(store: Store, key: str) -> Found | Missing:
    return await store.read(key)


def _stored(record: Record, looked: Step, look: Callable[[str], Found | Missing]) -> Stored | None:
    """What stands in the store for the session that was just looked at, taken apart."""
    reads = [operation.key for operation in record.operations if isinstance(operation, Read)]
    if not reads or looked.session is None:
        return None
    found = look(reads[-1])
    if not isinstance(found, Found):
        return None
    return Stored(key=reads[-1], parts=parts_of(found), session=looked.session)
