"""llama.cpp, asked over the standard input: `python -m bench.peers.llama MODEL.gguf --threads N --context N`.

Runs in the peers' own environment, so it imports nothing of this tree but `talk` and `quiet`. Its options are
those of llama.cpp's own tools: flash attention, a cache of the window's size for windowed layers, weights
repacked where it knows how, batches of 512. Tokens are the likeliest, as in the engine beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np

from bench.peers.quiet import Watch
from bench.peers.talk import serve

BATCH = 512
UNMEASURED = 2
STAGES = {
    "Qcur": "qkv",
    "Kcur": "qkv",
    "Vcur": "qkv",
    "kqv_out": "attend",
    "attn_out": "out",
    "ffn_moe_topk": "route",
    "ffn_moe_down": "experts",
    "l_out": "experts",
    "result_output": "head",
}
"""Names of nodes in its graph, and the stage that has ended when one of them is computed."""


class Llama:
    """A model, a context, and what is in its cache."""

    def __init__(self, path: Path, threads: int, context_tokens: int) -> None:
        self._quiet = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._quiet, None)
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp does not load `{path}`")
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._threads = threads
        self._context_tokens = context_tokens
        self._context = self._new_context(None)
        self._held: list[int] = []

    def decode(self, context: int, tokens: int) -> dict[str, Any]:
        """Seconds a token behind `context` tokens, the first ones not counted."""
        self._hold(prompt(context, self._vocabulary, seed=0))
        token = self._likeliest()
        for _ in range(UNMEASURED):
            token = self._next(token)
        watch, began_s = Watch(), time.perf_counter()
        for _ in range(tokens):
            token = self._next(token)
        return {"seconds": (time.perf_counter() - began_s) / tokens, "others": watch.others()}

    def prefill(self, tokens: int, seed: int) -> dict[str, Any]:
        """Seconds for a prompt alone until its first token."""
        self._forget(0)
        watch, began_s = Watch(), time.perf_counter()
        self._read(prompt(tokens, self._vocabulary, seed))
        self._likeliest()
        return {"seconds": time.perf_counter() - began_s, "others": watch.others()}

    def follow(self, prompt: list[int], answer: list[int], file: str) -> dict[str, Any]:
        """Saves fp32 logits [answer, V] into `file`: of the prompt's last token, and of each but the last of
        the answer, one at a time."""
        self._forget(0)
        self._read(prompt)
        rows = [self._logits().copy()]
        for token in answer[:-1]:
            self._read([token])
            rows.append(self._logits().copy())
        np.save(file, np.stack(rows))
        return {}

    def profile(self, context: int, tokens: int) -> dict[str, Any]:
        """Seconds a token of each stage and of the rest (`host`), in a context of its own that stops behind
        each."""
        spent: dict[str, float] = defaultdict(float)
        base = ctypes.CDLL(str(Path(lib.__file__).parent / "lib" / "libggml-base.so"))
        base.ggml_get_name.restype, base.ggml_get_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        last_s = 0.0

        def computed(tensor: int, ask: bool, _: object) -> bool:
            nonlocal last_s
            stage = STAGES.get(base.ggml_get_name(tensor).decode().split("-")[0])
            if not ask and stage is not None:
                now_s = time.perf_counter()
                spent[stage] += now_s - last_s
                last_s = now_s
            return stage is not None or not ask

        callback = lib.ggml_backend_sched_eval_callback(computed)
        plain = self._context
        self._context = self._new_context(callback)
        self._held, token = [], 0
        try:
            self._hold(prompt(context, self._vocabulary, seed=0))
            for _ in range(UNMEASURED):
                token = self._next(token)
            spent.clear()
            began_s = time.perf_counter()
            for _ in range(tokens):
                last_s = time.perf_counter()
                token = self._next(token)
            whole_s = time.perf_counter() - began_s
        finally:
            lib.llama_free(self._context)
            self._context, self._held = plain, []
            self._forget(0)
        stages = {stage: spent_s / tokens for stage, spent_s in spent.items()}
        return {**stages, "host": (whole_s - sum(spent.values())) / tokens}

    def about(self) -> dict[str, Any]:
        """Which features its kernels were built with."""
        return {"version": lib.__version__, "system": lib.llama_print_system_info().decode().strip()}

    def _new_context(self, callback: Any) -> Any:
        options = lib.llama_context_default_params()
        options.n_ctx = self._context_tokens
        options.n_batch = options.n_ubatch = BATCH
        options.n_threads = options.n_threads_batch = self._threads
        options.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        options.swa_full = False
        if callback is not None:
            options.cb_eval = callback
        context = lib.llama_init_from_model(self._model, options)
        if not context:
            raise SystemExit(f"llama.cpp gives no context of {self._context_tokens} tokens")
        return context

    def _hold(self, tokens: list[int]) -> None:
        """Makes `tokens` what the cache holds; all but the last are kept from before where they are there.

        The last one is computed again, so that its logits are those to go on from.
        """
        same = 0
        while same < min(len(tokens), len(self._held)) and tokens[same] == self._held[same]:
            same += 1
        same = min(same, len(tokens) - 1)
        self._forget(same)
        self._read(tokens[same:])

    def _forget(self, kept: int) -> None:
        """Keeps the first `kept` positions only."""
        memory = lib.llama_get_memory(self._context)
        if not kept:
            lib.llama_memory_clear(memory, True)
        elif not lib.llama_memory_seq_rm(memory, 0, kept, -1):
            raise SystemExit("llama.cpp does not take back the end of a sequence")
        self._held = self._held[:kept]

    def _read(self, tokens: list[int]) -> None:
        for at in range(0, len(tokens), BATCH):
            part = tokens[at : at + BATCH]
            array = (lib.llama_token * len(part))(*part)
            code = lib.llama_decode(self._context, lib.llama_batch_get_one(array, len(part)))
            if code:
                raise SystemExit(f"llama_decode failed with {code}")
        lib.llama_synchronize(self._context)
        self._held += tokens

    def _next(self, token: int) -> int:
        self._read([token])
        return self._likeliest()

    def _logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self._context, -1), (self._vocabulary,))

    def _likeliest(self) -> int:
        return int(self._logits().argmax())


def prompt(tokens: int, vocabulary: int, seed: int) -> list[int]:
    """Random tokens; which, does not matter for speed."""
    draw = random.Random(seed)
    return [draw.randrange(vocabulary) for _ in range(tokens)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    options = parser.parse_args(arguments)
    llama = Llama(options.model, options.threads, options.context)
    serve(
        {
            "decode": llama.decode,
            "prefill": llama.prefill,
            "follow": llama.follow,
            "profile": llama.profile,
            "about": llama.about,
        }
    )


if __name__ == "__main__":
    main()
