"""The life of a chat request, top to bottom."""

from __future__ import annotations

import asyncio

from gateway import errors
from gateway.auth import authenticate
from gateway.begin import record_begin
from gateway.conclusion import refuse
from gateway.context import GatewayContext
from gateway.conversation import conversation_of
from gateway.deliver import deliver_answer, deliver_cached, deliver_stream
from gateway.detect.labelling import detect_labels
from gateway.detect.redacting import obliged
from gateway.entrance import require_entrance, require_model, require_room, reserve_and_look_up
from gateway.facts import collect_facts
from gateway.hangup import Hangup
from gateway.ingress import CUT_OFF, Incoming, Reply
from gateway.openai import parse_chat
from gateway.policy.permit import permit
from gateway.residency import require_permitted
from gateway.routing.attempts import attempt_in_order
from gateway.routing.plan import plan
from gateway.sinks.timing import Timing
from gateway.taints import corrected, known_taint
from gateway.trail import Trail


async def chat_completion(incoming: Incoming, hangup: Hangup, context: GatewayContext) -> Reply:
    """One request, from its bytes to its signed answer. Every refusal becomes a reply with a receipt."""
    bundle = context.policies.current  # one revision for the whole request
    trail = Trail(incoming, bundle, context.clock.monotonic_s())
    try:
        # 1. authenticate
        caller = trail.caller = authenticate(incoming.authorization, bundle, context.demo_keys)
        await context.tenant_keys.ready(caller.tenant, context.store.forget)
        chat = trail.chat = parse_chat(incoming.body)
        model = require_model(chat.model, caller, bundle)
        declared = bundle.vocabulary.parse(incoming.labels) if incoming.labels is not None else None
        conversation = trail.conversation = conversation_of(
            chat, caller.tenant, context.tenant_keys.commit, bundle.marked_from_bytes
        )
        detected = await detect_labels(trail, context)

        # 2. read taint: first what this worker remembers; the store corrects it below, in the same round trip
        taint = known_taint(context.taints.recall(conversation), bundle.vocabulary, caller)
        while True:
            # 3. collect facts   4. permit
            trail.past = taint
            facts = trail.facts = collect_facts(caller, model, declared, taint, detected, bundle.vocabulary)
            permitted = trail.permitted = permit(facts, bundle)
            require_entrance(trail, context)
            # 5. reserve   6. look up the cache
            entered, cached = await reserve_and_look_up(trail, context)
            if entered.accepted:
                break
            taint = corrected(taint, entered, bundle.vocabulary, caller)
        require_room(entered)
        if cached is not None:
            return await deliver_cached(cached, trail, hangup, context)

        # 7. plan
        planning_s = context.clock.monotonic_s()
        backends = obliged(trail, context)
        decision = trail.decision = plan(
            permitted,
            bundle.routes.for_model(model, caller.zone),
            bundle.places,
            backends.keys(),
            backends.unable(chat, model),
            context.health.snapshot(),
            context.clock.monotonic_s(),
            affinity=conversation.affinity,
        )
        trail.timings.append(Timing("plan", planning_s, context.clock.monotonic_s()))
        require_permitted(trail, context)
        # 8. record the beginning, before the first byte leaves
        await hangup.after(record_begin(trail, context))
        # 9. attempt in order
        reached = await attempt_in_order(
            decision, chat, incoming.request_id, context.sinks.watched(backends, trail, context),
            context.health, context.clock,
            lambda attempt: attempt.still_permitted(context.policies.current), trail.tried,
        )  # fmt: skip
        # 10. settle, record the end, sign
        if chat.wants_stream:
            return deliver_stream(reached, trail, hangup, context)
        return await deliver_answer(reached, trail, hangup, context)
    except errors.DouaneError as error:
        return await refuse(error, trail, hangup, context)
    except asyncio.CancelledError:
        reply = await refuse(CUT_OFF, trail, hangup, context)
        if hangup.happened:
            raise
        return reply  # this process is stopping, and the client is still there to be told
    except Exception:
        context.sinks.log.event("bug", trail, context, exc_info=True)
        return await refuse(errors.bug(incoming.request_id), trail, hangup, context)
