"""`GET /v1/models`: what this caller may use, judged with the labels that a request without a header has."""

from __future__ import annotations

from gateway.auth import authenticate
from gateway.context import GatewayContext
from gateway.facts import collect_facts
from gateway.ingress import Reply, json_reply
from gateway.places import Action
from gateway.policy.permit import permit


def list_models(authorization: str | None, context: GatewayContext) -> Reply:
    """OpenAI's list of models; each names the places that may answer. Raises `Unauthenticated`."""
    bundle = context.policies.current
    caller = authenticate(authorization, bundle, context.demo_keys)
    listed = []
    for model in sorted(bundle.routes.models if caller.models is None else caller.models):
        facts = collect_facts(caller, model, None, None, None, bundle.vocabulary)
        permitted = permit(facts, bundle).places[Action.INFER] & context.backends.keys()
        places = sorted(place for place in permitted if context.backends.runs(place, model))
        if places:
            listed.append(
                {
                    "id": model,
                    "object": "model",
                    "created": 0,
                    "owned_by": "openai",
                    "douane": {"places": places},
                }
            )
    return json_reply(200, {"object": "list", "data": listed})
