"""A visitor's side of a function: requests as events, and the cookies that answers bring."""

import json
from typing import Any

from tests.aws.events import event_v2


class Visitor:
    """A browser: it keeps the cookie that it was given last, and sends it."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}

    def event(self, method: str, path: str, *, query: str = "", body: Any = None) -> dict[str, Any]:
        cookies = tuple(f"{name}={value}" for name, value in self.cookies.items())
        return event_v2(method, path, cookies=cookies, query=query, body=body)

    def take(self, answer: dict[str, Any]) -> Any:
        """What is in the session, by an answer that must be a 200."""
        assert answer["statusCode"] == 200, answer
        for cookie in answer.get("cookies", ()):
            name, _, value = cookie.partition(";")[0].partition("=")
            if "max-age=0" in cookie.lower() or "01 jan 1970" in cookie.lower():
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return json.loads(answer["body"])
