"""Names what in the environment or in the AWS profile could redirect a request, so that a start can refuse.

The gateway's own client obeys none of it. It is refused all the same: botocore's credential calls and
litellm would obey it, and an operator who set it expects an effect that must not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import botocore.session

# The services that are used: inference itself, and those that credentials may come from.
USED_SERVICES: Final = ("bedrock-runtime", "sts", "sso", "sso-oidc", "signin")
PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})
OTHER_ENDPOINTS: Final = ("AWS_BEDROCK_RUNTIME_ENDPOINT",)
HOST_SWITCHES: Final = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
TRUE: Final = "true"
FALSE: Final = frozenset({"false", "0", "no", "off"})
UNVERIFIED: Final = "SSL_VERIFY"

UNSET: Final = "unset it: a backend's address follows from `places.yaml` and nothing else"
UNSET_PROXY: Final = "unset it: a proxy would see every connection, and none is ever used"


def forbidden_environment(
    environ: Mapping[str, str],
    profiles: Mapping[str, Any],
    profile: str | None = None,
    besides: Sequence[str] = (),
) -> list[str]:
    """One message for each setting that could redirect inference or the credentials for it; empty is good.

    `besides` are further services that are used, in botocore's names. `profile` is the AWS profile that the
    settings name; None takes the environment's. `profiles` is the AWS configuration as botocore reads it:
    `{"profiles": {…}, "services": {…}}`, see `aws_configuration`.
    Values are never repeated: a proxy's address may hold a password.
    """
    in_use = profile or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    return [
        *forbidden_variables(environ, besides),
        *forbidden_everywhere(environ),
        *forbidden_profile_settings(in_use, profiles, besides),
    ]


def forbidden_everywhere(environ: Mapping[str, str]) -> list[str]:
    """A message for each variable that redirects or bares requests whatever is called; Bedrock or not."""
    messages = []
    for name in sorted(environ):
        value = environ[name].strip()
        if value and name.lower() in PROXIES:
            messages.append(f"`{name}` is set; {UNSET_PROXY}")
        elif name == UNVERIFIED and value.lower() in FALSE:
            messages.append(f"`{name}` is set, and litellm would not verify certificates; unset it")
    return messages


def forbidden_variables(environ: Mapping[str, str], besides: Sequence[str] = ()) -> Iterator[str]:
    endpoints = {"AWS_ENDPOINT_URL", *OTHER_ENDPOINTS}
    endpoints |= {
        f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}" for service in (*USED_SERVICES, *besides)
    }
    for name in sorted(environ):
        if not environ[name].strip():
            continue
        if name in endpoints:
            yield f"`{name}` is set; {UNSET}"
        elif name in HOST_SWITCHES and environ[name].strip().lower() == TRUE:
            yield f"`{name}` is set, which stands for other hosts than those of `places.yaml`; unset it"


def forbidden_profile_settings(
    in_use: str, profiles: Mapping[str, Any], besides: Sequence[str] = ()
) -> Iterator[str]:
    """The same settings in the AWS profile in use and in the profiles that it takes credentials from."""
    all_profiles = profiles.get("profiles", {})
    for name in profile_chain(in_use, all_profiles):
        profile = all_profiles[name]
        if profile.get("endpoint_url"):
            yield f"aws profile `{name}` sets `endpoint_url`; remove it: {UNSET.removeprefix('unset it: ')}"
        for switch in ("use_fips_endpoint", "use_dualstack_endpoint"):
            if str(profile.get(switch, "")).lower() == TRUE:
                yield f"aws profile `{name}` sets `{switch}`, which stands for other hosts; remove it"
        section = profile.get("services")
        services = profiles.get("services", {}).get(section, {}) if section else {}
        for service in (*USED_SERVICES, *besides):
            settings = services.get(service.replace("-", "_"), {})
            if isinstance(settings, Mapping) and settings.get("endpoint_url"):
                yield (
                    f"aws profile `{name}` uses services section `{section}`, which sets `endpoint_url` of "
                    f"`{service}`; remove it: {UNSET.removeprefix('unset it: ')}"
                )


def profile_chain(in_use: str, all_profiles: Mapping[str, Any]) -> Iterator[str]:
    """The profile in use, then the one its credentials come from, and so on."""
    name = in_use
    seen: set[str] = set()
    while name in all_profiles and name not in seen:
        seen.add(name)
        yield name
        name = str(all_profiles[name].get("source_profile", ""))


def aws_configuration() -> Mapping[str, Any]:
    """The AWS configuration files of this process as botocore reads them; empty when there are none."""
    configuration: Mapping[str, Any] = botocore.session.Session().full_config
    return configuration
