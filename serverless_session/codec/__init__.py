"""From objects to sealed bytes and back.

On the way down: `serializers` (objects to bytes; `tagging` and `messagepack` are how), `packing` (what stands in front,
compression), `sealing` (the stored format), with `keys` (the ring) and `xaes` (the cipher).
"""

from serverless_session.codec.keys import KeyRing, SecretKey
from serverless_session.codec.serializers import Serializer

__all__ = ["KeyRing", "SecretKey", "Serializer"]
