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
        "audit_keep_days": "2048",
        "audit_file_bytes": "4096",
        "trusted_proxies": "10.0.0.0/8, ::1",
        "behind_proxy": "true",
        "trace_url": "https://collector.test/v1/traces",
        "trace_content": "true",
        "aws_instance_role": "true",
        "policy_trusted_keys": "ours.pem, theirs.json",
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
    assert settings.policy_trusted_keys == (Path("ours.pem"), Path("theirs.json"))
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
    traced = {"DOUANE_TRACE_URL": "https://collector.test/v1/traces", "DOUANE_TRACE_PLACE": "collector"}
    settings = read_settings({**traced, f"DOUANE_{field.upper()}": "redis://user:s3cr3t@host"})

    assert "s3cr3t" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert "s3cr3t" not in problem({f"DOUANE_{field.upper()}": "s3cr3t", "DOUANE_PORT": "s3cr3t"})


def test_secrets_are_known_as_such() -> None:
    assert secrets_of(Settings) == {"redis_url", "engine_secret", "demo_key", "trace_secret"}
    assert secrets_of(BackendSettings) == {"secret"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gateway.example"])
def test_beyond_loopback_needs_tls_or_a_proxy(host: str) -> None:
    assert "DOUANE_TLS_CERT" in problem({"DOUANE_HOST": host})
    assert read_settings({"DOUANE_HOST": host, "DOUANE_BEHIND_PROXY": "true"}).host == host
    assert read_settings({"DOUANE_HOST": host, "DOUANE_TLS_CERT": "c", "DOUANE_TLS_KEY": "k"}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_neither(host: str) -> None:
    assert read_settings({"DOUANE_HOST": host}).host == host


@pytest.mark.parametrize(
    ("field", "place"), [("content_log", "content_log_place"), ("trace_url", "trace_place")]
)
def test_a_sink_needs_a_place_and_a_place_a_sink(field: str, place: str) -> None:
    value = "https://collector.test/v1/traces"
    for one in (field, place):
        text = problem({f"DOUANE_{one.upper()}": value})
        assert f"`{field}` and `{place}` belong together" in text
    assert getattr(read_settings({}, **{field: value, place: "sink"}), place) == "sink"


@pytest.mark.parametrize(
    "url",
    [
        "http://collector.test/v1/traces",
        "ftp://127.0.0.1/v1/traces",
        "127.0.0.1:4318",
        "https:///v1/traces",
        "https://user:s3cr3t@collector.test/v1/traces",
        "https://collector.test/v1/traces?key=s3cr3t",
    ],
)
def test_traces_go_to_a_url_that_is_whole_safe_and_without_a_secret(url: str) -> None:
    text = problem({}, trace_url=url, trace_place="collector")

    assert "`trace_url` must" in text
    assert "s3cr3t" not in text


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4318/v1/traces", "http://localhost/x", "https://c.test/v1/traces"]
)
def test_traces_may_go_in_clear_on_loopback_only(url: str) -> None:
    assert read_settings({}, trace_url=url, trace_place="collector").trace_url == url


@pytest.mark.parametrize("name", ["trace_secret", "trace_content"])
def test_what_is_said_of_traces_needs_traces(name: str) -> None:
    assert f"`{name}` says something of traces" in problem({f"DOUANE_{name.upper()}": "true"})


def test_signatures_of_more_than_nobody_need_keys() -> None:
    assert "`policy_signatures_needed` asks for signatures, and no key is trusted" in problem(
        {"DOUANE_POLICY_SIGNATURES_NEEDED": "2"}
    )
