"""transformers, asked over the standard input: `python -m bench.peers.hf MODEL --threads N`.

Experts are decoded to bf16 when the model is loaded: on a CPU it has no other way without packages of its
own.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils.quantization_config import Mxfp4Config

from bench.peers.quiet import Watch
from bench.peers.talk import serve

UNMEASURED = 1


class Transformers:
    """A model, and the cache behind each context that was asked for."""

    def __init__(self, model: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            model,
            dtype=torch.bfloat16,
            quantization_config=Mxfp4Config(dequantize=True),
            attn_implementation="eager",
        )
        self._behind: dict[int, tuple[torch.Tensor, Any]] = {}

    @torch.inference_mode()
    def decode(self, context: int, tokens: int) -> dict[str, Any]:
        """Seconds a token behind `context` tokens, the first ones not counted."""
        if context not in self._behind:
            draw = random.Random(0)
            prompt = [[draw.randrange(self._model.config.vocab_size) for _ in range(context)]]
            self._behind[context] = self._next(torch.tensor(prompt), None)
        token, cache = copy.deepcopy(self._behind[context])
        for _ in range(UNMEASURED):
            token, cache = self._next(token, cache)
        watch, began_s = Watch(), time.perf_counter()
        for _ in range(tokens):
            token, cache = self._next(token, cache)
        return {"seconds": (time.perf_counter() - began_s) / tokens, "others": watch.others()}

    def about(self) -> dict[str, Any]:
        """Versions."""
        return {"transformers": transformers.__version__}

    def _next(self, tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        found = self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1:].argmax(dim=-1), found.past_key_values


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args(arguments)
    engine = Transformers(options.model, options.threads)
    serve({"decode": engine.decode, "about": engine.about})


if __name__ == "__main__":
    main()
