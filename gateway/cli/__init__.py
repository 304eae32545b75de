"""The `douane` command."""
