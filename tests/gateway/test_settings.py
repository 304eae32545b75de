"""Settings: each documented, none unknown, no secret told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.settings import BackendSettings, Settings, SettingsInvalid, read_settings
from tests.gateway.settings_page import PAGE, page, secrets_of


def problem(environ: dict[str, str], **given: Any) -> str:
    with pytest.raises(SettingsInvalid) as raised:
        read_settings(environ, **given)
    return str(raised.value)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `douane.yaml` of the tree's is read."""
    monkeypatch.chdir(tmp_path)


def test_the_page_says_what_the_settings_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.gateway.settings_page`"


@pytest.mark.parametrize("model", [Settings, BackendSettings])
def test_each_field_says_what_it_is_for_in_a_sentence(model: type[Settings] | type[BackendSettings]) -> None:
    for name, info in model.model_fields.items():
        assert info.description, name
        assert info.description.endswith("."), name
        assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


def test_every_plain_field_can_be_set_by_its_variable() -> None:
    variables = {
        line.split("`")[3]: line.split("`")[1]
        for line in page().splitlines()
        if line.count("`DOUANE_") == 1 and line[0] == "|"
    }
    values = {
        "bedrock": "aws",
        "audit_durability": "synced",
        "audit_failure": "continue",
        "trusted_proxies": "10.0.0.0/8, ::1",
        "behind_proxy": "true",
        "aws_instance_role": "true",
        "tls_cert": "cert.pem",
        "tls_key": "key.pem",
        "host": "::1",
    }
    numbers = {name for name, info in Settings.model_fields.items() if info.annotation in (int, float)}
    environ = {
        variable: values.get(name, "2048" if name in numbers else f"text-{name}")
        for variable, name in variables.items()
    }
    settings = read_settings(environ)

    assert set(variables.values()) == settings.model_fields_set
    assert settings.port == 2048
    assert settings.engine_models == ("text-engine_models",)
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("DOUANE_PROT", "did you mean `DOUANE_PORT`?"),
        ("DOUANE_REDIS", "DOUANE_REDIS_"),
        ("DOUANE_XYZZY", "unset it"),
    ],
)
def test_an_unknown_variable_is_refused_with_a_hint(variable: str, hint: str) -> None:
    text = problem({variable: "the-value-of-it"})

    assert f"`{variable}`" in text
    assert hint in text
    assert "the-value-of-it" not in text


def test_variables_of_others_are_let_alone() -> None:
    assert read_settings({"PORT": "1", "REDIS_URL": "x", "douane_port": "7"}).port == 8080


def test_the_command_line_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "douane.yaml").write_text("port: 1\nhost: localhost\ngrace_s: 5\n")

    settings = read_settings({"DOUANE_PORT": "2", "DOUANE_GRACE_S": "6"}, port=3)

    assert (settings.port, settings.grace_s, settings.host) == (3, 6.0, "localhost")


def test_a_named_file_is_read_instead(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("port: 4\nbackends: {vllm: {url: 'https://vllm.example'}}\n")

    settings = read_settings({"DOUANE_CONFIG": str(tmp_path / "other.yaml")})

    assert (settings.port, settings.backends["vllm"].url) == (4, "https://vllm.example")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot: 1\n", "did you mean `port`?"),
        ("port: [\n", "douane.yaml:2: not valid YAML"),
        ("- port\n", "must be a mapping"),
        ("backends: {vllm: {ulr: x}}\n", "backends.vllm.ulr"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_words(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "douane.yaml").write_text(text)

    assert said in problem({})


@pytest.mark.parametrize("field", sorted(secrets_of(Settings)))
def test_a_secret_is_in_no_text_about_the_settings(field: str) -> None:
    settings = read_settings({f"DOUANE_{field.upper()}": "redis://user:s3cr3t@host"})

    assert "s3cr3t" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert "s3cr3t" not in problem({f"DOUANE_{field.upper()}": "s3cr3t", "DOUANE_PORT": "s3cr3t"})


def test_secrets_are_known_as_such() -> None:
    assert secrets_of(Settings) == {"redis_url", "engine_secret", "demo_key"}
    assert secrets_of(BackendSettings) == {"secret"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gateway.example"])
def test_beyond_loopback_needs_tls_or_a_proxy(host: str) -> None:
    assert "DOUANE_TLS_CERT" in problem({"DOUANE_HOST": host})
    assert read_settings({"DOUANE_HOST": host, "DOUANE_BEHIND_PROXY": "true"}).host == host
    assert read_settings({"DOUANE_HOST": host, "DOUANE_TLS_CERT": "c", "DOUANE_TLS_KEY": "k"}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_neither(host: str) -> None:
    assert read_settings({"DOUANE_HOST": host}).host == host
