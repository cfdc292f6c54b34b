"""Endpoints in modules whose annotations are texts."""

from __future__ import annotations

import pydantic
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serverless_session import CacheContext
from tests.caching.shops import a_cache


class Product(pydantic.BaseModel):
    product_id: int


cache = a_cache()
app = FastAPI()


@app.get("/products/{product_id}")
@cache.cached()
async def show(context: CacheContext, product_id: int) -> Product:
    return Product(product_id=product_id)


@app.get("/plain/{product_id}")
@cache.cached()
def plain(product_id: int):  # type: ignore[no-untyped-def]
    return {"product_id": product_id}


def test_openapi_and_answers_are_those_of_the_function() -> None:
    with TestClient(app) as client:
        for _ in range(2):
            assert client.get("/products/7").json() == {"product_id": 7}
            assert client.get("/plain/7").json() == {"product_id": 7}
        schema = client.get("/openapi.json").json()
    answer = schema["paths"]["/products/{product_id}"]["get"]["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Product"}
