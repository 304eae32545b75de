"""Harmony, the conversation format gpt-oss was trained on: render, parse, and tool signatures.

Pure text and integers: nothing here needs torch.
"""
