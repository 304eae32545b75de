"""A Bedrock emulator that is accurate on the wire: one instance per region, with a ledger of what came in.

No model runs behind it, and every answer says so.
"""
