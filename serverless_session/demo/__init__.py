"""The demo: a visitor of a small shop, played event by event through the Lambda handler.

`run(store)` plays and answers with a `Report`: what happened, and which promises held. It prints nothing.

`shop` is the app, `events` what API Gateway sends, `sandboxes` run the shop as Lambda does, `browser` keeps the
visitor's cookies, `story` is what the visitor does, `beside` looks at the store without the shop, `promises` judge what
was recorded, `report` is what comes out, `rendering` shows it. `page` is another shop, to click on.
"""

from serverless_session.demo.report import Part, Report, Step, Stored, Verdict
from serverless_session.demo.story import run

__all__ = ["Part", "Report", "Step", "Stored", "Verdict", "run"]
