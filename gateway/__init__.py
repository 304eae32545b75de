"""The gateway: decides where a request may go, sends it there, and signs where its answer was made."""

__version__ = "0.5.0"
