"""Makes the headers of https://www.standardwebhooks.com: the message's id and time and, with a secret, a signature."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

_PREFIX = "whsec_"


def headers(secret: str, message_id: str, clock: float, body: bytes) -> dict[str, str]:
    found = {"webhook-id": message_id, "webhook-timestamp": str(int(clock))}
    if secret:
        signed = b".".join([message_id.encode(), str(int(clock)).encode(), body])
        digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
        found["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return found


def _key(secret: str) -> bytes:
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
