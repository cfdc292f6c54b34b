"""One copy of the shop: an ordinary FastAPI app with a session and a cache, and what the demo shows beside it.

What a page does is a form that posts and is sent back to the page, so it works without scripts too; `?said=` names
what the page then says. The cart is a list, because lists that two requests changed at once are both kept.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from serverless_session import Cache, CachePolicy, Session, SessionMiddleware, SharedState
from serverless_session.demo.page import stampede
from serverless_session.demo.page.counter import ANSWERS, both_sides, milliseconds, row
from serverless_session.demo.page.goods import GOODS, count_the_shelves, money
from serverless_session.demo.page.local_store import LocalStore
from serverless_session.demo.page.meeting import Meetings
from serverless_session.demo.page.observing import Book, Observing, current
from serverless_session.demo.page.outage import BackSoon
from serverless_session.fastapi import CurrentSession

SESSION_SECONDS: Final = 1800
LIST_POLICY: Final = CachePolicy(ttl=300, stale_while_revalidate=300)
LIST: Final = "products"
LONGEST_NAME: Final = 40
MOST_THINGS: Final = 99

SAID: Final = {
    "in": "You are logged in, under a new session id. The old one is dead.",
    "no-name": "Nobody was logged in: the name was empty.",
    "out": "You are logged out. Your old cookie opens nothing any more.",
    "removed": "Taken out of the cart.",
    "full": "The cart is full.",
    "stampede": "The stampede is over.",
    "alone": "The second tab did not come in time, so this one went on alone.",
    "forgotten": "The list is forgotten: who asks next has it counted anew.",
    "aged": "The list is old now: who asks next has it counted anew, and all others are shown the old one meanwhile.",
    "stopped": "The store is stopped.",
    "kept": "The store runs again, and has kept everything.",
    "not-started": "The store did not start; the terminal says why.",
    "lost": "The store runs again. What it held is lost: carts and logins begin anew.",
}


@dataclass(slots=True, kw_only=True)
class Backstage:
    """What the copies of the shop have in common as a demo; as shops they share the store alone."""

    store: str
    book: Book
    copies: tuple[str, ...]
    local: LocalStore | None = None
    meetings: Meetings = field(default_factory=Meetings)
    last_stampede: stampede.Happening | None = None


templates: Final = Jinja2Templates(directory=Path(__file__).parent / "templates")
templates.env.filters["money"] = money


def shop(name: str, shared: SharedState, backstage: Backstage) -> FastAPI:
    """The app of one copy."""
    app = FastAPI(openapi_url=None)
    cache = Cache(shared, policy=LIST_POLICY)

    async def count() -> dict[str, Any]:
        with stampede.computing(name):
            return await count_the_shelves(name)

    async def products() -> dict[str, Any]:
        return await cache.get_or_compute(LIST, count, tags=[LIST])

    async def page(request: Request, *, session: Session | None, notice: str) -> Response:
        began = time.perf_counter()
        listed = await products()
        seen, seconds = current(), time.perf_counter() - began
        answer = seen.answers[-1]
        cart = [] if session is None else session.get("cart", [])
        return templates.TemplateResponse(
            request,
            "page.html",
            {
                "backstage": backstage,
                "goods": GOODS,
                "listed": listed,
                "counted_at": _clock_time(listed["counted_at"]),
                "list_answer": answer.value,
                "list_answer_name": ANSWERS[answer][0],
                "list_took": milliseconds(seconds),
                "is_down": session is None,
                "user": None if session is None else session.user_id,
                "is_known": session is not None and not session.is_new,
                "cart": Counter(cart),
                "total_cents": sum(GOODS[slug].cents for slug in cart),
                "notice": notice,
                "rows": [row(entry) for entry in backstage.book.last()],
                "both": None if session is None else both_sides(session, session.user_id, seen.found),
                "words": [(answer.value, *ANSWERS[answer]) for answer in ANSWERS],
                "longest_name": LONGEST_NAME,
            },
        )

    @app.get("/")
    async def look(request: Request, session: CurrentSession, said: str = "", item: str = "") -> Response:
        return await page(request, session=session, notice=_words(said, item, session))

    @app.get("/products")
    async def list_products() -> Response:
        listed = await products()
        return JSONResponse({**listed, "counted_at": listed["counted_at"].isoformat()})

    @app.post("/login")
    async def log_in(session: CurrentSession, name: Annotated[str, Form()] = "") -> Response:
        user = name.strip()[:LONGEST_NAME]
        if not user:
            return back("no-name")
        session.login(user)
        return back("in")

    @app.post("/logout")
    async def log_out(session: CurrentSession) -> Response:
        session.logout()
        return back("out")

    @app.post("/cart")
    async def add(session: CurrentSession, item: Annotated[str, Form()], meet: Annotated[str, Form()] = "") -> Response:
        if item not in GOODS:
            return Response("The shop has no such thing.", 404)
        if len(session.get("cart", [])) >= MOST_THINGS:
            return back("full")
        # The session is loaded by now. Where two tabs are to overlap, the other's is too before either goes on.
        met = await backstage.meetings.meet(meet) if meet else False
        session.setdefault("cart", []).append(item)
        if not meet:
            return back("added", item)
        await session.save()
        if met:
            await backstage.meetings.meet(f"{meet} saved")  # so that the page that follows shows what came of both
        return back("met" if met else "alone", item)

    @app.post("/cart/remove")
    async def remove(session: CurrentSession, item: Annotated[str, Form()]) -> Response:
        if item in session.get("cart", []):
            session["cart"].remove(item)
        return back("removed")

    @app.post("/products/forget")
    async def forget() -> Response:
        await cache.invalidate_tags(LIST)
        return back("forgotten")

    @app.post("/products/age")
    async def let_grow_old() -> Response:
        await cache.invalidate_tags(LIST, stale=True)
        return back("aged")

    async def while_down(request: Request, words: str) -> Response:
        current().status = 503  # known before it leaves, so the panel shows it
        return await page(request, session=None, notice=words)

    app.add_middleware(
        SessionMiddleware, shared=shared, max_age=SESSION_SECONDS, on_store_failure="raise", exempt=["/products*"]
    )
    app.add_middleware(BackSoon, page=while_down)
    app.add_middleware(Observing, book=backstage.book, copy=name)
    return app


def _words(said: str, item: str, session: Session) -> str:
    """What the page says. Nothing of the address is shown as it is."""
    if item in GOODS and said == "added":
        return f"In the cart: {GOODS[item].name}."
    if item in GOODS and said == "met":
        names = ", ".join(GOODS[slug].name for slug in dict.fromkeys(session.get("cart", [])))
        return (
            f"Both tabs had read the cart before either wrote. This one put in {GOODS[item].name}."
            f" Nothing is lost, the cart holds: {names}."
        )
    return SAID.get(said, "")


def back(said: str, item: str = "") -> Response:
    """To the page, which says so."""
    return RedirectResponse(f"/?said={said}" + (f"&item={item}" if item else ""), 303)


def _clock_time(moment: datetime) -> str:
    return moment.astimezone().strftime("%H:%M:%S")
