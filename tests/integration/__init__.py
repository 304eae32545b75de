"""The whole gateway as a process, over a real engine and emulated regions whose ledgers tests can read."""
