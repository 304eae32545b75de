"""Where this process may connect to: the hosts of its places and what they need, and nothing else.

`destinations.py` makes the list from settings and bundle, `guard.py` holds it and decides, `client.py` pins
the shared HTTP client to it, `loop.py` whatever else connects on the event loop, `hook.py` whatever connects
in a thread.
"""
