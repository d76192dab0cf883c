"""What Schemathesis needs to be told of bodies: a packed file is bytes."""

import schemathesis


@schemathesis.serializer("application/gzip")
def packed(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()
