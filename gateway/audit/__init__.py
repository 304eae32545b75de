"""The record of what happened: hash-chained, without a caller's content."""
