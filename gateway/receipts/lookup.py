"""`GET /v1/receipts/{id}`: a receipt that was too long for a header, or was lost; for its own tenant only."""

from __future__ import annotations

import re

from gateway.auth import authenticate
from gateway.context import GatewayContext
from gateway.errors import NotFound
from gateway.ingress import Reply, json_reply
from gateway.keys.keyring import Unsealable

RECEIPT_ID = re.compile(r"rcpt_[0-9a-f]{32}")


def storage_key(receipt_id: str) -> str:
    return f"receipt/{receipt_id}"


async def fetch_receipt(authorization: str | None, receipt_id: str, context: GatewayContext) -> Reply:
    """Raises `Unauthenticated`, or `NotFound` for a receipt that is another's, expired or never was: a caller
    cannot tell which."""
    caller = authenticate(authorization, context.policies.current, context.demo_keys)
    await context.tenant_keys.ready(caller.tenant, context.store.forget)
    if RECEIPT_ID.fullmatch(receipt_id):
        key = storage_key(receipt_id)
        sealed = await context.store.fetch(caller.tenant, key)
        if sealed is not None:
            try:
                receipt = context.tenant_keys.open_(caller.tenant, key.encode(), sealed)
            except Unsealable:
                receipt = b""
            if receipt:
                return json_reply(200, {"id": receipt_id, "object": "receipt", "jws": receipt.decode()})
    raise NotFound(
        "there is no such receipt for this API key; receipts are kept for a while only, save them from the "
        "header"
    )
