"""Write the golden files that are not there yet: `python -m tests.codec.golden.make`. It never writes one anew."""

from serverless_session.codec import KeyRing
from serverless_session.codec.packing import Packer
from serverless_session.codec.sealing import Sealer
from serverless_session.codec.serializers import serializer_for
from tests.codec.golden.values import GOLDEN


def main() -> None:
    for golden in GOLDEN:
        if not golden.path.exists():
            sealer = Sealer(KeyRing(golden.secret), namespace=golden.namespace, purpose=golden.purpose)
            packed = Packer(serializer_for(golden.serializer)).pack(golden.value, compress=golden.compress)
            golden.path.write_bytes(sealer.seal(packed, key=golden.key, ends_at=golden.ends_at))
            print(golden.path.name)


if __name__ == "__main__":
    main()
