"""A small, readable inference engine for gpt-oss behind an OpenAI-compatible server.

Importing this package does nothing and pulls in neither torch nor a web framework; see `local_engine.cli`.
"""
