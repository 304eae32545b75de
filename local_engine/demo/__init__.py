"""A tiny gpt-oss that was trained on made-up conversations, so that a demo answers in words.

`topics`, `texts` and `wording` hold what is said, `corpus` makes conversations of it, `network` and `train`
make the weights in `demo.safetensors`, and `expand` makes a regular checkpoint of those.
"""
