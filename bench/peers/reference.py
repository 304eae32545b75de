"""What both engines should come to: `python -m bench.peers.reference MODEL OUT.npy < tokens.json`.

The slow, obvious model of this tree, in fp32. llama.cpp rounds the bounds between which YaRN blends its two
kinds of frequencies, which gpt-oss does not; at a few hundred positions that is a hundredth of what its int8
activations make.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from local_engine.checkpoint import open_checkpoint
from local_engine.reference import ReferenceModel


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="how many of the last logits to save")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    tokens = json.load(sys.stdin)
    model = ReferenceModel(open_checkpoint(options.model), torch.float32)
    cache, head = model.new_cache(), len(tokens) - options.rows
    if head:
        model.forward(tokens[:head], cache, last_only=True)
    np.save(options.out, model.forward(tokens[head:], cache).numpy())


if __name__ == "__main__":
    main()
