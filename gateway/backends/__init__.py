"""The places that can answer: each behind the same small Protocol, `base.Backend`."""
