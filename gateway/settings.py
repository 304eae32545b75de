"""What this process is told by its operator: URLs, secrets and bounds. Read once, at start.

`douane.yaml` (or the file that `DOUANE_CONFIG` names) holds the same fields; a `DOUANE_*` variable wins over
the file. Where something may go is never a setting: that is the policy bundle's to say, by place id.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from gateway.secret_files import SecretFileInvalid, require_own

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
MIB = 1024 * 1024
PREFIX = "DOUANE_"


def split_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def default_policies() -> Path:
    """`policies` here, else the copy that an installed package carries."""
    here, packaged = Path("policies"), Path(__file__).with_name("default_policies")
    return packaged if not here.exists() and packaged.exists() else here


class SettingsInvalid(Exception):
    """The settings cannot be used; `problems` says what is wrong and how to fix each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class BackendSettings(BaseModel):
    """How to reach one place of the bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(default=None, description="Base URL of an engine or OpenAI-compatible server.")
    secret: SecretStr | None = Field(default=None, description="Bearer secret of that server.")
    hosts: tuple[str, ...] = Field(
        default=(), description="Further `host` or `host:port` that a `litellm` provider's client needs."
    )
    input_usd_per_million_tokens: float | None = Field(
        default=None, ge=0, description="What a prompt costs here, where no price list says so."
    )
    output_usd_per_million_tokens: float | None = Field(
        default=None, ge=0, description="What an answer costs here, reasoning included."
    )


class Settings(BaseModel):
    """The gateway's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    tls_cert: Path | None = Field(default=None, description="Certificate chain (PEM) to serve TLS with.")
    tls_key: Path | None = Field(default=None, description="Private key (PEM) of that certificate.")
    behind_proxy: bool = Field(
        default=False, description="A proxy in front terminates TLS: plain HTTP is meant."
    )
    trusted_proxies: Annotated[tuple[IpNetwork, ...], BeforeValidator(split_list)] = Field(
        default=(), description="Addresses whose `X-Forwarded-*` headers are believed."
    )
    policies: Path = Field(
        default_factory=default_policies,
        description="Directory of the policy bundle; default: `policies`, else the copy in the package.",
    )
    policy_poll_s: float = Field(
        default=2.0, gt=0, description="How often the bundle is checked for a change."
    )
    policy_trusted_keys: Annotated[tuple[Path, ...], BeforeValidator(split_list)] = Field(
        default=(),
        description="Files of public keys (PEM or JWK); with any, only bundles that they signed are loaded.",
    )
    policy_signatures_needed: int = Field(
        default=1, ge=1, description="How many different trusted keys must have signed; 2 for four eyes."
    )
    shadow_policies: Path | None = Field(
        default=None,
        description="Directory of a candidate bundle, judged beside the live one; it may come and go.",
    )
    state_dir: Path = Field(
        default=Path("var"), description="Directory of keys, audit and the store's memory."
    )
    keys_dir: Path | None = Field(
        default=None,
        description="Folder of the tenants' wrapped keys, shared by gateways that share a store; default: "
        "`keys` in `state_dir`.",
    )
    kms_key_id: str | None = Field(
        default=None,
        description="Key of AWS KMS (id, ARN or alias) that wraps tenants' keys; default: `master.key` does.",
    )
    kms_region: str | None = Field(default=None, description="Region of that key.")
    gateway_place: str = Field(default="gateway", description="Place id of this process.")
    terminator_place: str | None = Field(
        default=None, description="Place id of the TLS terminator in front, if any."
    )
    audit_place: str = Field(default="audit-files", description="Place id of the audit files.")
    audit_durability: Literal["written", "synced"] = Field(
        default="written",
        description="`written`: in the kernel's hands before an answer; `synced`: on the disk.",
    )
    audit_failure: Literal["refuse", "continue"] = Field(
        default="refuse", description="When no record can be written: refuse requests, or go on unrecorded."
    )
    audit_checkpoint_records: int = Field(
        default=1000, ge=1, description="A signed checkpoint follows so many audit records at the latest."
    )
    audit_checkpoint_s: float = Field(
        default=60.0, gt=0, description="And after this time, where anything was recorded."
    )
    audit_file_bytes: int = Field(
        default=256 * MIB,
        ge=4096,
        description="An audit file is closed at the first checkpoint after this size.",
    )
    audit_keep_days: int | None = Field(
        default=None,
        ge=1,
        description="Closed audit files older than this are removed, on the record; without it, none is.",
    )
    audit_s3_bucket: str | None = Field(
        default=None,
        description="Bucket with Object Lock that the audit is copied into; without it, into none.",
    )
    audit_s3_region: str | None = Field(default=None, description="Region of that bucket.")
    audit_s3_place: str | None = Field(
        default=None, description="Place id of that bucket, of kind `audit`; it must permit `record` too."
    )
    audit_s3_prefix: str = Field(default="audit/", description="What the names of the objects begin with.")
    audit_s3_retain_days: int = Field(
        default=365, ge=1, description="How long an object is locked, in compliance mode."
    )
    audit_s3_interval_s: float = Field(
        default=60.0, gt=0, description="How often what is new is copied into the bucket."
    )
    log_place: str | None = Field(
        default=None,
        description="Place id of this process's own log; default: the bundle's `logs`, if it has that place.",
    )
    content_log: Path | None = Field(
        default=None, description="Directory of the content log; without it, none is written."
    )
    content_log_place: str | None = Field(
        default=None, description="Place id of the content log, of kind `log`."
    )
    content_log_file_bytes: int = Field(
        default=64 * MIB,
        ge=1024,
        description="A file of the content log is changed for a new one at this size.",
    )
    content_log_files: int = Field(
        default=16, ge=1, le=9999, description="Files kept of the content log; the oldest goes first."
    )
    trace_url: str | None = Field(
        default=None,
        description="Where traces are sent: OTLP over HTTP, the whole URL; without it, none are made.",
    )
    trace_place: str | None = Field(
        default=None, description="Place id of what receives traces, of kind `trace`."
    )
    trace_secret: SecretStr | None = Field(default=None, description="Bearer secret of `trace_url`.")
    trace_content: bool = Field(
        default=False,
        description="Traces hold prompts and answers too, where `log` is permitted at their place.",
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Redis; without it the store is this process."
    )
    redis_place: str = Field(default="store-redis", description="Place id of that Redis, of kind `redis`.")
    memory_place: str | None = Field(default="store-memory", description="Place id of the in-process store.")
    replicas: int = Field(
        default=1, ge=1, description="Gateways that share the store; bounds the local share."
    )
    bedrock: Literal["off", "aws", "emulator"] = Field(
        default="off",
        description="`aws`: the bundle's Bedrock places; `emulator`: demo only, labelled as such.",
    )
    aws_profile: str | None = Field(default=None, description="AWS profile to take credentials from.")
    aws_instance_role: bool = Field(
        default=False, description="Ask the machine's metadata service (IMDS) for the role of the instance."
    )
    emulator_urls: dict[str, str] = Field(
        default_factory=dict, description="Demo only: emulator URL by region."
    )
    model: Path | None = Field(
        default=None, description="gpt-oss checkpoint; `serve` starts an engine for it."
    )
    engine_place: str = Field(default="local-engine", description="Place id of that engine.")
    engine_url: str | None = Field(default=None, description="A local engine that is already running.")
    engine_secret: SecretStr | None = Field(default=None, description="Its bearer secret.")
    engine_models: Annotated[tuple[str, ...] | None, BeforeValidator(split_list)] = Field(
        default=None, description="Models that engine has loaded; default: all that its place may run."
    )
    engine_port: int = Field(
        default=8081, ge=0, le=65535, description="Port of an engine that `serve` starts."
    )
    backends: dict[str, BackendSettings] = Field(
        default_factory=dict, description="Further backends, by place id."
    )
    egress: dict[str, str] = Field(
        default_factory=dict,
        description="Further destinations, `host:port` to the id of the place that is reached there.",
    )
    ca_file: Path | None = Field(
        default=None, description="Authorities (PEM) that backends' certificates may also be of."
    )
    demo_key: SecretStr | None = Field(default=None, description="Demo only: the demo tenant's API key.")
    cache_ttl_s: int = Field(
        default=3600, ge=0, description="How long an answer may be replayed; 0: never cached."
    )
    receipt_ttl_s: int = Field(
        default=86_400, ge=0, description="How long a receipt can be fetched by its id."
    )
    body_limit_bytes: int = Field(
        default=4 * MIB, ge=1024, description="Largest request body; above it: 413."
    )
    header_limit_bytes: int = Field(
        default=32 * 1024, ge=1024, description="Largest request head; above it: 431."
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="Time for a client to send its request's head."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Time for a client to send its request's body."
    )
    grace_s: float = Field(
        default=30.0, ge=0, description="After SIGTERM: time for running answers to finish."
    )

    @model_validator(mode="after")
    def sinks_have_places(self) -> Settings:
        for field, place in (("content_log", "content_log_place"), ("trace_url", "trace_place")):
            if (getattr(self, field) is None) != (getattr(self, place) is None):
                raise ValueError(
                    f"`{field}` and `{place}` belong together: set both (DOUANE_{field.upper()}, "
                    f"DOUANE_{place.upper()}), so that the policy can say what may be written there"
                )
        if self.trace_url is None:
            named = [name for name in ("trace_secret", "trace_content") if getattr(self, name)]
            if named:
                raise ValueError(
                    f"`{named[0]}` says something of traces, and there are none: set `trace_url`"
                )
        else:
            require_trace_url(self.trace_url)
        return self

    @model_validator(mode="after")
    def signatures_have_keys(self) -> Settings:
        if self.policy_signatures_needed > 1 and not self.policy_trusted_keys:
            raise ValueError(
                "`policy_signatures_needed` asks for signatures, and no key is trusted: set "
                "`policy_trusted_keys` (DOUANE_POLICY_TRUSTED_KEYS)"
            )
        return self

    @model_validator(mode="after")
    def bucket_is_whole(self) -> Settings:
        names = ("audit_s3_bucket", "audit_s3_region", "audit_s3_place")
        given = [name for name in names if getattr(self, name) is not None]
        if given and len(given) < len(names):
            missing = next(name for name in names if name not in given)
            raise ValueError(
                f"`{given[0]}` is set and `{missing}` is not: bucket, region and place belong together, "
                "so that the policy can say what may be recorded there"
            )
        return self

    @model_validator(mode="after")
    def kms_key_has_a_region(self) -> Settings:
        if (self.kms_key_id is None) != (self.kms_region is None):
            raise ValueError(
                "`kms_key_id` and `kms_region` belong together: set both (DOUANE_KMS_KEY_ID, "
                "DOUANE_KMS_REGION), so that it is written down where keys are wrapped"
            )
        return self

    @model_validator(mode="after")
    def exposed_only_with_tls(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "`tls_cert` and `tls_key` belong together: set both (DOUANE_TLS_CERT, DOUANE_TLS_KEY)"
            )
        if not is_loopback(self.host) and self.tls_cert is None and not self.behind_proxy:
            raise ValueError(
                f"`host` {self.host} is beyond loopback and TLS is off: set DOUANE_TLS_CERT and "
                "DOUANE_TLS_KEY, or DOUANE_BEHIND_PROXY=true when a proxy in front terminates TLS"
            )
        return self


def require_trace_url(url: str) -> None:
    """Raises ValueError unless it is https, or http on loopback, and holds no secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "`trace_url` must be a whole URL such as `https://collector.internal:4318/v1/traces`"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("`trace_url` must be an https URL (plain http is for loopback only)")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("`trace_url` must hold no user, query or fragment; a secret goes to `trace_secret`")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_settings(environ: Mapping[str, str], **given: Any) -> Settings:
    """The settings from the file, the `DOUANE_*` variables and `given` (command line), the later winning.

    Raises `SettingsInvalid`; its texts name the variable or field, and never repeat a secret.
    """
    variables, problems = read_variables(environ)
    fields = {**read_file(environ.get("DOUANE_CONFIG")), **variables, **given}
    if problems:
        raise SettingsInvalid(tuple(problems))
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        raise SettingsInvalid(
            tuple(explain(one) for one in error.errors(include_input=False, include_url=False))
        ) from None


def read_variables(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    known = {f"DOUANE_{name.upper()}": name for name in Settings.model_fields}
    fields: dict[str, Any] = {}
    problems: list[str] = []
    for variable in sorted(environ):
        if not variable.startswith("DOUANE_") or variable == "DOUANE_CONFIG":
            continue
        if variable in known:
            fields[known[variable]] = environ[variable]
        else:
            # Compared without the prefix, which makes any two names alike.
            near = difflib.get_close_matches(variable[len(PREFIX) :].lower(), Settings.model_fields, n=1)
            hint = f"did you mean `{PREFIX}{near[0].upper()}`?" if near else "unset it"
            problems.append(f"the variable `{variable}` is not a setting; {hint}")
    return fields, problems


def read_file(path: str | None) -> dict[str, Any]:
    file = Path(path or "douane.yaml")
    if not file.exists():
        if path:
            raise SettingsInvalid(
                (f"DOUANE_CONFIG names `{path}`, which does not exist; create it or unset it",)
            )
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingsInvalid((f"{file}:{line}: not valid YAML: {error.problem}",)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsInvalid((f"{file}: must be a mapping of settings, for example `port: 8080`",))
    if secrets := list(secrets_in(content)):
        try:
            require_own(file, file.stat().st_mode)
        except SecretFileInvalid as error:
            raise SettingsInvalid((f"`{secrets[0]}`: {error}",)) from None
    return content


def secrets_in(content: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a settings file that hold a secret; a Redis URL does when it has a user or password."""
    known = {name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)}
    for name, value in content.items():
        if name == "backends" and isinstance(value, dict):
            for place, given in value.items():
                if isinstance(given, dict) and given.get("secret"):
                    yield f"backends.{place}.secret"
        elif value and name in known and (name != "redis_url" or "@" in str(value)):
            yield name


def explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, Settings.model_fields, n=1)
        return f"`{field}` is not a setting; " + (f"did you mean `{near[0]}`?" if near else "remove it")
    message = problem["msg"].removeprefix("Value error, ")
    return f"`{field}` (DOUANE_{field.upper()}): {message[0].lower()}{message[1:]}" if field else message
