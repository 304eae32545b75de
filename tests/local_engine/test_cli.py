"""The commands say what they did, and refuse an unusable setup with exit status 3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from local_engine.cli import PRESET_NAMES, main, read_secret
from local_engine.errors import SetupError
from local_engine.presets import PRESETS
from local_engine.serve import ServeOptions, load_service

SECRET = {"DOUANE_ENGINE_SECRET": "s3cret"}


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """One command, in process."""
    return CliRunner().invoke(main, arguments, env=env, catch_exceptions=False)


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

    assert made.output == f"wrote 2 files to {out}: preset `demo`, a tiny model for demos, hf format\n"
    assert (
        "weights: a tiny model trained on made-up conversations: it answers small talk and knows nothing\n"
        in run("inspect", str(out)).output
    )


def test_making_a_checkpoint_twice_is_refused(tiny: dict[str, Path]) -> None:
    result = run("make-checkpoint", str(tiny["hf"]))

    assert result.exit_code == 3
    assert result.stderr == (
        f"error: `{tiny['hf']}` already holds a checkpoint: remove it or choose another directory\n"
    )


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
        (["--model", "/nonexistent"], SECRET, "`/nonexistent/config.json` does not exist"),
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
    assert (
        f"cannot listen on `127.0.0.1:{port}`: Address already in use; choose another `--port`"
        in result.stderr
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

    assert read_secret(path) == "s3cret"
    path.write_bytes(b"\xff")
    with pytest.raises(SetupError, match="cannot be read"):
        read_secret(path)


def test_names_and_limits_come_from_the_options(demo: Path) -> None:
    service = load_service(ServeOptions(model=demo, secret="s", models=("a", "b"), max_context_tokens=100))
    default = load_service(ServeOptions(model=demo, secret="s", max_context_tokens=10**9))

    assert (service.models, service.engine.max_context_tokens) == (("a", "b"), 100)
    assert (default.models, default.engine.max_context_tokens) == (("gpt-oss-20b",), 131072)
