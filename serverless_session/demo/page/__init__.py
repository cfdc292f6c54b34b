"""The shop as a page to click on: FastAPI, templates, no build step. `serve` runs it until it is interrupted.

Two copies of the shop (`shop`) stand behind one address and share nothing but the store, as they would on Lambda; the
`front` hands requests to them in turn. `goods` is what they sell, and the slow way to find out what is on the shelves.
`observing` writes down what each request asked of the store and what the cache answered, and `counter` makes of it what
the side panel shows. `meeting` lets the requests of two tabs overlap, `stampede` sends fifty at once, `local_store`
runs a server that can be stopped. `outage` is the page while it is. `guard` keeps other sites out.
"""

from serverless_session.demo.page.serving import serve

__all__ = ["serve"]
