"""The shop, started and connected while Lambda loads it."""

from serverless_session import LambdaHandler
from tests.aws.shop import app

handler = LambdaHandler(app, prewarm=True)
