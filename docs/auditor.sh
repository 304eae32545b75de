#!/usr/bin/env bash
# An auditor's walk: verify an answer, find a planted alteration, confirm an erasure. docs/auditor.md explains
# each step. Needs `douane` (of this tree's .venv, or on the PATH), curl and python3; starts a demo gateway of its
# own on loopback, in a folder of its own, and ends both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/douane ] && PATH="$PWD/.venv/bin:$PATH"

work=$(mktemp -d)
export DOUANE_STATE_DIR="$work/state" DOUANE_DEMO_KEY="dk-auditor-$RANDOM$RANDOM$RANDOM$RANDOM"
export DOUANE_PORT="${DOUANE_PORT:-18080}" DOUANE_ENGINE_PORT="${DOUANE_ENGINE_PORT:-18081}"
export DOUANE_CONTENT_LOG="$work/content" DOUANE_CONTENT_LOG_PLACE=logs
url="http://127.0.0.1:$DOUANE_PORT"
gateway=
finish() {
  if [ -n "$gateway" ]; then kill -INT "$gateway" 2>/dev/null || true; wait "$gateway" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap finish EXIT

say() { printf '\n== %s\n' "$*"; }
# expect STATUS COMMAND...: runs it and stops here unless it ends with that status.
expect() {
  local wanted=$1 status=0
  shift
  "$@" || status=$?
  if [ "$status" -ne "$wanted" ]; then
    printf 'expected status %s, got %s: %s\n' "$wanted" "$status" "$*" >&2
    exit 1
  fi
}
# ask NAME TEXT [HEADER]: a chat request; keeps what was sent, the headers and the body that came back.
ask() {
  printf '{"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "%s"}]}' "$2" >"$work/$1.request"
  curl --silent --show-error --dump-header "$work/receipts/$1.headers" --output "$work/$1.answer" \
    -H "authorization: Bearer $DOUANE_DEMO_KEY" -H 'content-type: application/json' -H "${3:-x-none: 0}" \
    --data-binary "@$work/$1.request" "$url/v1/chat/completions"
}

say "the operator starts a gateway (a demo: an emulator, and a key that proves nothing outside of this walk)"
mkdir "$work/receipts"
douane serve --demo >"$work/printed.txt" 2>&1 &
gateway=$!
for _ in $(seq 600); do
  curl --silent --fail --output /dev/null "$url/readyz" && break
  kill -0 "$gateway" 2>/dev/null || { cat "$work/printed.txt" >&2; exit 1; }
  sleep 0.2
done

say "1. the auditor pins the public key: in real life from a channel of its own, not from who is audited"
curl --silent --show-error --output "$work/pinned.json" "$url/.well-known/jwks.json"

say "2. a client asks, with a mark of its own, and keeps request, answer and headers"
ask first "Bonjour" "x-douane-nonce: seen-by-the-auditor-1"
expect 0 douane receipt verify "$work/receipts/first.headers" --key "$work/pinned.json" \
  --nonce seen-by-the-auditor-1 --request "$work/first.request" --answer "$work/first.answer"

say "3. one byte of the answer changed: the receipt is genuine, but not about this answer"
cp "$work/first.answer" "$work/changed.answer"
printf ' ' >>"$work/changed.answer"
expect 1 douane receipt verify "$work/receipts/first.headers" --key "$work/pinned.json" \
  --request "$work/first.request" --answer "$work/changed.answer" --format json >"$work/changed.json"
python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["problem"])' "$work/changed.json"

say "4. why did it go where it went? From the audit alone"
expect 0 douane explain "$work/receipts/first.headers" --audit "$DOUANE_STATE_DIR/audit"

say "5. more is asked; the clients keep their receipts, and those are the anchors"
for number in 1 2 3; do ask "more-$number" "question number $number"; done
expect 0 douane audit verify "$DOUANE_STATE_DIR/audit" --key "$work/pinned.json" --anchor "$work/receipts"

say "6. the operator, who holds every key, changes one word in a copy, and makes all hashes and signatures fit"
cp -r "$DOUANE_STATE_DIR/audit" "$work/altered"
python3 docs/plant.py "$work/altered" "$DOUANE_STATE_DIR/receipt-key.pem"
say "   the files and the key find nothing ..."
expect 0 douane audit verify "$work/altered" --key "$work/pinned.json"
say "   ... the clients' receipts do"
expect 1 douane audit verify "$work/altered" --key "$work/pinned.json" --anchor "$work/receipts"

say "7. before the erasure: what was said can be read by whoever holds the keys"
expect 0 douane log read --tenant demo >"$work/before.txt"
grep --count 'question number' "$work/before.txt"
cp -r "$DOUANE_CONTENT_LOG" "$work/dump"

say "8. the tenant is erased"
expect 0 douane tenant shred demo --yes --state-dir "$DOUANE_STATE_DIR"
for _ in $(seq 300); do
  ask refused "Bonjour"
  grep -q tenant_erased "$work/refused.answer" && break
  sleep 0.2
done
cat "$work/refused.answer"; echo

say "9. afterwards nothing of it opens, not even from the dump that was made before"
expect 1 douane log read --tenant demo "$work/dump" >"$work/after.txt" 2>"$work/after.err"
expect 1 grep --count 'question number' "$work/after.txt"
head -n 1 "$work/after.err"

say "10. the erasure is on the record, and the record still verifies"
expect 0 douane audit search "$DOUANE_STATE_DIR/audit" --kind tenant_shredded
rm "$work/receipts/refused.headers"
expect 0 douane audit verify "$DOUANE_STATE_DIR/audit" --key "$work/pinned.json" --anchor "$work/receipts"
say "done"
