"""The operator of docs/auditor.sh: `plant.py AUDIT RECEIPT_KEY` changes one word of the first request, and
makes every hash and every checkpoint after it anew, with the gateway's own signing key."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from gateway.audit.checkpoint import read_checkpoint
from gateway.receipts.keys import load_signing_key
from gateway.receipts.signer import ReceiptSigner

folder, signer = Path(sys.argv[1]), ReceiptSigner(load_signing_key(Path(sys.argv[2])))
(chain,) = folder.glob("*.jsonl")
previous, planted, lines = {"seq": 0, "hash": "0" * 64}, False, []
for line in chain.read_text().splitlines():
    record = json.loads(line)
    del record["hash"]
    record["prev"] = previous["hash"]
    if record["kind"] == "begin" and not planted:
        record["tenant"], planted = "somebody-else", True
    if record["kind"] == "checkpoint":
        point = replace(read_checkpoint(record["jws"]), sequence=previous["seq"], hash=previous["hash"])
        record["jws"] = signer.sign_checkpoint(point)
    body = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    record["hash"] = hashlib.sha256(body.encode()).hexdigest()
    lines.append(f'{body[:-1]},"hash":"{record["hash"]}"}}\n')
    previous = record
chain.write_text("".join(lines))
