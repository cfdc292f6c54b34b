"""What an event costs on its way through a Lambda handler, beside Mangum.

A handler is a plain function: what is timed is `handler(event, context)`, with an event of payload format 2.0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.asking import Contender, Place, Unfit
from benchmarks.contenders.requests import Visitor
from benchmarks.contenders.sessions import Action, asgi_app, our_app, starlette_cookie_app, starsessions_app
from benchmarks.measuring import Run
from benchmarks.questions import Question
from benchmarks.results import Role
from tests.aws.events import Context, event_v2

if TYPE_CHECKING:
    from benchmarks.asking import Bench

FLOOR: Final = "Mangum, lifespan off"
AUTO: Final = "Mangum, lifespan auto"
OURS: Final = "serverless-session"
NO_SESSION: Final = "no session"

Handler = Callable[[Any, Any], Any]
Make = Callable[[Any, Place], Handler]


def ask(bench: Bench) -> None:
    bench.race(QUESTION.name, NO_SESSION, without_session(bare_app), floor=FLOOR)
    bench.race(QUESTION.name, "no session, Starlette app", without_session(starlette_app), floor=FLOOR)
    for action in (Action.READ, Action.WRITE):
        bench.race(QUESTION.name, f"session of 1 KiB, {action}", with_session(action), floor=FLOOR)


def without_session(make_app: Callable[[], Any]) -> list[Contender]:
    return [
        Contender(name="the app alone", role=Role.LIMIT, prepare=partial(_app_alone, make_app)),
        _contender(FLOOR, Role.FLOOR, _mangum_off, make_app),
        _contender(OURS, Role.OURS, _ours, make_app),
        _contender(AUTO, Role.PEER, _mangum_auto, make_app),
    ]


def with_session(action: Action) -> list[Contender]:
    def of(name: str, role: Role, make: Make, wrap: Callable[[Any, Place], Any], note: str = "") -> Contender:
        return Contender(name=name, role=role, prepare=partial(_visiting, make, wrap, action), note=note)

    def starsessions(app: Any, place: Place) -> Any:
        return starsessions_app(app, action, place)

    def cookie(app: Any, place: Place) -> Any:
        return starlette_cookie_app(app)

    return [
        _contender(FLOOR, Role.FLOOR, _mangum_off, bare_app, note="without a session"),
        of(OURS, Role.OURS, _ours, our_app),
        of("serverless-session on Mangum, off", Role.BARE, _mangum_off, our_app),
        of("serverless-session on Mangum, auto", Role.BARE, _mangum_auto, our_app),
        of("starsessions on Mangum, off", Role.PEER, _mangum_off, starsessions),
        of("starsessions on Mangum, auto", Role.PEER, _mangum_auto, starsessions),
        of("Starlette's cookie sessions on Mangum, off", Role.PEER, _mangum_off, cookie, "the data is in the cookie"),
    ]


def bare_app() -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


async def live(receive: Any, send: Any) -> None:
    """The lifespan of an app that has nothing to start."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    async def page(request: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", page)])


def _contender(name: str, role: Role, make: Make, make_app: Callable[[], Any], note: str = "") -> Contender:
    def prepare(place: Place) -> Run:
        return _repeating(make(make_app(), place), event_v2())

    return Contender(name=name, role=role, prepare=prepare, note=note)


def _app_alone(make_app: Callable[[], Any], place: Place) -> Run:
    return place.repeating(Visitor(make_app()))


def _visiting(make: Make, wrap: Callable[[Any, Place], Any], action: Action, place: Place) -> Run:
    """An app with sessions behind a handler: fill one, show that it comes back, and bring its cookie."""
    inner = asgi_app(action, 1024)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
        else:
            await inner(scope, receive, send)

    handler = make(wrap(app, place), place)
    filled = handler(event_v2(path="/fill"), Context())
    cookies = tuple(cookie.partition(";")[0] for cookie in filled.get("cookies", ()))
    if not cookies:
        raise Unfit(f"set no cookie: {filled}")
    event = event_v2(cookies=cookies)
    answer = handler(event, Context())
    if action is Action.READ and answer["body"] != "ada@example.com":
        raise Unfit(f"the session did not come back: {answer}")
    return _repeating(handler, event)


def _repeating(handler: Handler, event: Any) -> Run:
    context = Context()

    def run(calls: int) -> None:
        for _ in range(calls):
            if handler(event, context)["statusCode"] != 200:
                raise Unfit("answered no 200")

    return run


def _ours(app: Any, place: Place) -> Handler:
    from serverless_session import LambdaHandler

    handler = LambdaHandler(app)
    place.close_last(handler.close)
    return handler


def _mangum_off(app: Any, place: Place) -> Handler:
    from mangum import Mangum

    return Mangum(app, lifespan="off")


def _mangum_auto(app: Any, place: Place) -> Handler:
    from mangum import Mangum

    return Mangum(app, lifespan="auto")


QUESTION: Final = Question(
    name="handler",
    title="The Lambda handler: one event",
    about=(
        "`handler(event, context)` with an event of an HTTP API (payload format 2.0), an app on bare ASGI or "
        "Starlette, and three seconds left by the context. The floor is bare Mangum with its lifespan off, without a "
        "session."
    ),
    columns=("us", "ratio", "cpu_us", "trips", "commands"),
    ask=ask,
)
