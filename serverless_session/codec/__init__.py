"""From objects to sealed bytes and back: `serializers`, `keys` (the ring), `xaes` (the cipher), `sealing` (format)."""

from serverless_session.codec.keys import KeyRing, SecretKey
from serverless_session.codec.serializers import Serializer

__all__ = ["KeyRing", "SecretKey", "Serializer"]
