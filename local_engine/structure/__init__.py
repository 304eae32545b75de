"""Holds an answer to a structure: which tokens may come next in an assistant's turn.

schema.py    which JSON schemas can be enforced to the letter; the others are refused by their keyword
pattern.py   how large a regular expression really is
grammars.py  schemas compiled with llguidance, and kept
headers.py   message headers as a trie of tokens
masks.py     bitmaps over the vocabulary
turn.py      the automaton of one turn; implements the engine's `Grammar`
request.py   from tools, tool choice and response format to a turn: `Structures` is where to begin

header -- <|message|> -> analysis, preamble -- <|end|> -> <|start|>assistant -> header
                      -> json of a call     -- <|call|> -> ended, or <|end|> before one more call
                      -> final, json of it  -- <|return|> -> ended
"""
