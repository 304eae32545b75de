"""The commands say what they did, and refuse an unusable setup with exit status 3."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result
from huggingface_hub import constants

from local_engine.checkpoint import open_checkpoint
from local_engine.cli import PRESET_NAMES, main, read_secret
from local_engine.errors import SetupError
from local_engine.footprint import size
from local_engine.machine import Available
from local_engine.opening import EngineOptions, open_engine
from local_engine.presets import PRESETS
from local_engine.serve import ServeOptions, service_of
from local_engine.tensors import stored_as, tensor_specs
from tests.local_engine.hub_server import COMMIT, REPO, hub_of, serving

SECRET = {"DOUANE_ENGINE_SECRET": "s3cret"}


def run(*arguments: str, env: dict[str, str] | None = None, typed: str | None = None) -> Result:
    """One command, in process."""
    return CliRunner().invoke(main, arguments, input=typed, env=env, catch_exceptions=False)


def test_the_presets_offered_are_the_presets_there_are() -> None:
    assert list(PRESETS) == list(PRESET_NAMES)


def test_a_checkpoint_is_made_and_inspected(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    made = run("make-checkpoint", str(out), "--preset", "tiny", "--format", "original", "--seed", "4")
    found = json.loads(run("inspect", str(out), "--format", "json").output)

    assert (made.exit_code, made.output) == (
        0,
        f"wrote 2 files to {out}: preset `tiny`, random weights, seed 4, original format\n",
    )
    assert (found["preset"], found["seed"], found["format"]) == ("tiny", 4, "original")
    assert "weights: random: the right shape, no meaning\n" in run("inspect", str(out)).output


def test_the_demo_is_made_and_inspected_as_a_tiny_model_that_was_trained(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    made = run("make-checkpoint", str(out))

    assert made.output == f"wrote 4 files to {out}: preset `demo`, a tiny model for demos, hf format\n"
    assert (
        "weights: a tiny model trained on made-up conversations: it answers small talk and knows nothing\n"
        in run("inspect", str(out)).output
    )


def test_a_preset_cut_to_fewer_layers_says_so_and_is_the_first_of_them(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "short"
    made = run("make-checkpoint", str(out), "--preset", "tiny", "--seed", "1", "--layers", "3")
    found = json.loads(run("inspect", str(out), "--format", "json").output)
    short, whole = open_checkpoint(out), open_checkpoint(tiny["hf"])
    names = [spec.name for spec in tensor_specs(short.config)]

    assert (made.exit_code, made.output) == (
        0,
        f"wrote 2 files to {out}: preset `tiny` cut to 3 layers, random weights, seed 1, hf format\n",
    )
    assert (found["preset"], found["fingerprint"]) == ("tiny-3-layers", "douane-tiny-3-layers-random")
    assert short.config == replace(whole.config, num_hidden_layers=3)
    assert all(torch.equal(short.tensor(name), whole.tensor(name)) for name in names)


def test_the_demo_cannot_be_cut(tmp_path: Path) -> None:
    result = run("make-checkpoint", str(tmp_path / "demo"), "--layers", "2")

    assert result.exit_code == 3
    assert result.stderr == ("error: the demo was trained with the layers it has: choose another preset\n")
    assert not (tmp_path / "demo").exists()


def test_making_a_checkpoint_twice_is_refused(tiny: dict[str, Path]) -> None:
    result = run("make-checkpoint", str(tiny["hf"]))

    assert result.exit_code == 3
    assert result.stderr == (
        f"error: `{tiny['hf']}` already holds a checkpoint: remove it or choose another directory\n"
    )


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "model"
    result = run("make-checkpoint", str(out), "--preset", "tiny")

    assert result.exit_code == 3
    assert result.stderr == f"error: `{out}` cannot be made: Not a directory; choose another directory\n"


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ([], {}, "no secret: set `DOUANE_ENGINE_SECRET` or `--secret-file`"),
        ([], {"DOUANE_ENGINE_SECRET": "  "}, "no secret"),
        ([], {"DOUANE_ENGINE_SECRET": "two words"}, "must be one word of ascii letters"),
        (["--secret-file", "/nonexistent"], {}, "`/nonexistent` cannot be read"),
        (["--host", "0.0.0.0"], SECRET, "`0.0.0.0` is reachable from outside"),
        (["--host", "engine.example"], SECRET, "`engine.example` is reachable from outside"),
        (["--tls-cert", "x"], SECRET, "give both `--tls-cert` and `--tls-key`"),
        (
            ["--model", "/nonexistent"],
            SECRET,
            "`/nonexistent` is neither a folder here nor the id of a model",
        ),
        (["--model", "."], SECRET, "`config.json` does not exist: point at a checkpoint's own directory"),
        (["--device", "cuda"], SECRET, "there is no CUDA device here: say `--device cpu`"),
        ([], SECRET, "`vocab_size` is `512`: only a model with all 201088 tokens can speak harmony"),
    ],
)
def test_an_unusable_setup_is_refused_before_anything_listens(
    tiny: dict[str, Path], arguments: list[str], env: dict[str, str], message: str
) -> None:
    result = run("serve", "--model", str(tiny["hf"]), *arguments, env=env)

    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_a_taken_port_is_named(demo: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run("serve", "--model", str(demo), "--port", port, env=SECRET)

    assert result.exit_code == 3
    assert result.stderr == (
        f"error: cannot listen on `127.0.0.1:{port}`: Address already in use; choose another `--port`\n"
    )


def test_an_address_of_another_machine_is_told_before_the_model_is_loaded(demo: Path) -> None:
    address = ("--host", "192.0.2.1", "--port", "0", "--behind-proxy")
    result = run("serve", "--model", str(demo), *address, env=SECRET)

    assert (result.exit_code, result.stderr) == (
        3,
        "error: cannot listen on `192.0.2.1:0`: Cannot assign requested address; choose another `--host`\n",
    )


def test_a_certificate_that_is_none_is_refused(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("no certificate")
    for pem in (str(tmp_path / "pem"), str(tmp_path / "absent")):
        result = run("serve", "--model", str(demo), "--tls-cert", pem, "--tls-key", pem, env=SECRET)

        assert result.exit_code == 3
        assert "`--tls-cert` and `--tls-key` must be readable pem files" in result.stderr


def test_the_secret_is_read_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o600)

    assert read_secret(path) == "s3cret"
    path.write_bytes(b"\xff")
    with pytest.raises(SetupError, match="cannot be read"):
        read_secret(path)


def test_names_and_limits_come_from_the_options(demo: Path) -> None:
    checkpoint = open_checkpoint(demo)

    def served(context: int, *models: str) -> tuple[tuple[str, ...], int]:
        engine = open_engine(checkpoint, EngineOptions(max_running=1, max_context_tokens=context))
        service = service_of(checkpoint, engine, ServeOptions(secret="s", models=models))
        return service.models, service.engine.max_context_tokens

    assert served(100, "a", "b") == (("a", "b"), 100)
    assert served(10**9) == (("gpt-oss-20b",), 131072)


@pytest.mark.parametrize("name", ["serve", "chat", "bench", "make-checkpoint", "inspect"])
def test_every_command_and_every_option_is_explained(name: str) -> None:
    command = main.commands[name]
    unexplained = [
        option.name for option in command.params if isinstance(option, click.Option) and not option.help
    ]
    shown = run(name, "--help")

    assert unexplained == []
    assert shown.exit_code == 0
    assert command.help is not None
    assert command.help.splitlines()[0] in " ".join(shown.output.split())
    assert f"  {name} " in run("--help").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["chat", "--model", "x", "--url", "http://x"],
            "--model runs a model here, --url talks to one elsewhere",
        ),
        (["chat", "--secret-file", "x"], "--secret-file belongs to --url"),
        (["chat", "--effort", "huge"], "'huge' is not one of 'low', 'medium', 'high'"),
        (
            ["serve", "--model", "x", "--step-tokens", "4"],
            "--step-tokens must be at least 16: each answer takes",
        ),
        (
            ["bench", "--model", "x", "--batch", "257"],
            "--step-tokens must be at least 257: each answer takes one",
        ),
        (["serve", "--model", "x", "--port", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["bench"], "Missing option '--model'"),
        (["inspect"], "Missing argument 'MODEL'"),
        (["talk"], "No such command 'talk'"),
    ],
)
def test_a_wrong_command_line_is_exit_2_with_the_reason(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert message in result.stderr


def test_what_a_checkpoint_needs_stands_beside_what_there_is(tiny: dict[str, Path]) -> None:
    arguments = ["inspect", str(tiny["hf"]), "--context-tokens", "1000", "--running", "3", "--dtype", "fp32"]
    memory = json.loads(run(*arguments, "--format", "json").output)["memory"]
    shown = run(*arguments).output.splitlines()
    needed = memory["devices"]["cpu"]

    assert (memory["context_tokens"], memory["running"]) == (1000, 3)
    assert memory["devices"].keys() == {"cpu", "cuda"}
    # Of windowed layers the engine keeps more than the 42 blocks of each: prefixes are to be found again.
    assert needed["kv_bytes"] == (3 * 64 + 1 + 150 + 1) * 2 * 16 * 2 * 128 * 4
    assert needed["total_bytes"] == sum(
        needed[f"{part}_bytes"] for part in ("weights", "experts", "decoded", "kv", "workspace")
    )
    assert needed["free_bytes"] > needed["total_bytes"]
    assert needed["fits"] == "yes"
    at = shown.index("memory for 3 x 1000 tokens:")
    assert shown[at + 1] == f"  cpu: {needed['summary']}"
    assert shown[at + 2].startswith("       there: ")
    assert shown[at + 2].endswith(": it fits")
    assert needed["peak_bytes"] == needed["total_bytes"] + needed["process_bytes"]
    assert shown[at + 3] == f"       resident at most: {size(needed['peak_bytes'])}, the process included"


def hollow(preset: str, folder: Path) -> Path:
    """A checkpoint of a large shape whose weights are a hole in the file: only its header can be read."""
    config = PRESETS[preset].config
    header: dict[str, object] = {}
    end = 0
    for spec in (part for whole in tensor_specs(config) for part in stored_as(whole, config, "hf")):
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": spec.shape,
            "data_offsets": [end, end + spec.nbytes],
        }
        end += spec.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    return folder


def test_a_checkpoint_larger_than_the_machine_is_inspected_and_its_load_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Available("cpu", 4 << 30, 8 << 30)
    monkeypatch.setattr("local_engine.machine.available", lambda device: there if device == "cpu" else None)
    folder = str(hollow("120b-shape", tmp_path))
    found = json.loads(run("inspect", folder, "--format", "json").output)
    shown = run("inspect", folder).output
    refused = run("bench", "--model", folder, "--dtype", "fp32", "--device", "cpu")

    assert (found["released_shape"], found["tensor_bytes"]) == ("gpt-oss-120b", 65_248_815_744)
    assert found["parameters"] == {"total": 116_829_156_672, "active": 5_132_849_472}
    assert found["weights"] == "from elsewhere"
    assert found["vocabulary"] == "missing: put the model's `tokenizer.json` beside its weights"
    assert [found["memory"]["devices"][device]["fits"] for device in ("cpu", "cuda")] == ["slowly", None]
    assert "parameters: total 116.83 B, active 5.13 B\n" in shown
    assert "there: 4.0 GiB free of 8.0 GiB: it runs, but reads weights from disk again and again\n" in shown
    assert "there: no such device here\n" in shown
    assert refused.exit_code == 3
    assert "this needs " in refused.stderr
    assert "of memory on `cpu`, but 4.0 GiB of 8.0 GiB are free: lower" in refused.stderr
    assert "or use `--dtype bf16`; `--ignore-memory` tries all the same\n" in refused.stderr


def test_a_hub_id_is_fetched_inspected_and_verified(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving(hub_of(tiny["hf"])) as hub:
        env = {"HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path)}
        first = run("inspect", REPO, "--format", "json", env=env)
        again = run("inspect", f"{REPO}@{COMMIT}", "--verify", env=env)
    folder = tmp_path / "douane" / "models" / "openai--tiny" / COMMIT
    found = json.loads(first.stdout)

    assert f"{REPO} is commit {COMMIT}\n" in first.stderr
    assert found["path"] == str(folder)
    assert (found["hub"]["repo"], found["hub"]["commit"]) == (REPO, COMMIT)
    assert f"hub: repo {REPO}, commit {COMMIT}, fetched " in again.output
    assert (
        "verified: config.json, generation_config.json, model.safetensors, tokenizer.json\n" in again.output
    )
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    broken = run("inspect", str(folder), "--verify")
    assert broken.exit_code == 3
    assert "model.safetensors` is not what was fetched" in broken.stderr


CHAT = ("--temperature", "0", "--max-context-tokens", "2048")


def test_a_piped_conversation_is_held_with_the_demo(demo: Path) -> None:
    result = run("chat", "--model", str(demo), *CHAT, "--max-tokens", "40", typed="hello\n/reset\nhello\n")
    first, second = result.stdout.split("the conversation is forgotten\n")

    assert result.exit_code == 0
    assert first.splitlines()[0] == second.splitlines()[0] != ""
    assert "tokens/s, the first after" in first.splitlines()[-1]
    assert result.stderr.startswith("loaded 49.")
    assert result.stderr.count("\n") == 1


def test_without_a_model_the_demo_is_made_and_named(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_engine.make.cached_preset", lambda *_: (demo, True))
    result = run("chat", *CHAT, typed="")

    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no `--model`: talking to the demo model, made now in {demo}\n" in result.stderr


def test_a_context_that_memory_shortens_is_told(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "local_engine.machine.available", lambda device: Available(device, 110 << 20, 1 << 30)
    )
    result = run("chat", "--model", str(demo), "--device", "cpu", typed="")

    assert result.exit_code == 0
    told = re.search(
        r"note: the context is (\d+) tokens of 131072: more keys and values do not fit", result.stderr
    )
    assert told is not None
    # Halved until it fits: 1 KiB and more a token in four layers, in half of what the weights leave.
    assert int(told[1]) in (2048, 4096, 8192, 16384)


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["chat"], ["bench"]])
def test_a_context_longer_than_the_model_was_scaled_for_is_refused(demo: Path, command: list[str]) -> None:
    result = run(*command, "--model", str(demo), "--max-context-tokens", "131073", env=SECRET)

    assert result.exit_code == 3
    assert result.stderr == (
        "error: this model was scaled for a context of 131072 tokens, but 131073 are asked for: "
        "ask for fewer\n"
    )


def test_exact_arithmetic_is_refused_where_it_is_not_to_be_had(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = run("bench", "--model", str(tiny["hf"]), "--exact")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (8 << 30, 8 << 30))
    on_gpu = run("bench", "--model", str(tiny["hf"]), "--exact", "--dtype", "fp32", "--device", "cuda")

    for result in (half, on_gpu):
        assert result.exit_code == 3
        assert (
            "exact arithmetic is there on the CPU in fp32 only: say `--device cpu --dtype fp32`"
            in result.stderr
        )


def test_what_cannot_speak_is_told_before_it_is_loaded(
    tiny: dict[str, Path], demo: Path, tmp_path: Path
) -> None:
    mute = run("chat", "--model", str(tiny["hf"]), typed="")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(demo / name)
    wordless = run("chat", "--model", str(tmp_path), typed="")
    elsewhere = run("chat", "--url", "http://127.0.0.1:1", env=SECRET, typed="")

    assert (mute.exit_code, wordless.exit_code, elsewhere.exit_code) == (3, 3, 3)
    assert "`vocab_size` is `512`: only a model with all 201088 tokens can speak harmony" in mute.stderr
    assert (
        f"`{tmp_path}` has no `tokenizer.json`: copy it from where the weights came from" in wordless.stderr
    )
    assert "no engine answers at `http://127.0.0.1:1`" in elsewhere.stderr


def test_too_little_memory_is_told_with_the_numbers(tiny: dict[str, Path]) -> None:
    result = run("bench", "--model", str(tiny["hf"]), "--kv-gib", "1000000")

    assert result.exit_code == 3
    assert "kv pool 1000000.0 GiB" in result.stderr
    assert "lower `--max-context-tokens` or `--kv-gib`" in result.stderr


def test_a_benchmark_prints_its_rates_in_both_forms(tiny: dict[str, Path]) -> None:
    arguments = ["bench", "--model", str(tiny["hf"]), "--batch", "1", "--batch", "2", "--threads", "1"]
    lengths = ["--prompt-tokens", "8", "--answer-tokens", "4"]
    found = json.loads(run(*arguments, *lengths, "--json").stdout)
    shown = run(*arguments, *lengths).stdout.splitlines()

    assert [run["batch"] for run in found["decode"]] == [1, 2]
    assert all(run["tokens_per_s"] > 0 and run["bytes_per_token"] > 0 for run in found["decode"])
    assert found["prefill"]["prompt_tokens"] == 8
    assert found["machine"]["threads"] == 1
    assert shown[0].startswith("cpu ")
    assert shown[-1].startswith("answering 2 at once: ")
