"""The keywords of JSON Schema that are not enforced, the types and the formats that are.

Their names may be shown to clients: they are this engine's words, whatever a request says.
"""

from __future__ import annotations

TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)

ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "example",
        "examples",
        "$comment",
        "$schema",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",
    }
)
"""Say nothing about which values are valid. So do keywords that begin with `x-`."""

NOT_ENFORCED = frozenset(
    {
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "additionalItems",
        "unevaluatedItems",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedProperties",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "nullable",
        "id",
        "$id",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$recursiveAnchor",
        "$vocabulary",
    }
)
"""Keywords that are known, would change which values are valid, and cannot be enforced."""

NO_EFFECT = {"uniqueItems": False, "nullable": False}
"""The values at which a keyword of `NOT_ENFORCED` means nothing."""
