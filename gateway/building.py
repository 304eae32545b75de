"""From the bundle's places and the settings to backends: one for each place that this gateway can reach."""

from __future__ import annotations

import functools
from collections.abc import Iterator, KeysView, Mapping

import aiohttp
import boto3
import botocore.session
from botocore.credentials import Credentials
from botocore.exceptions import ProfileNotFound

from gateway.backends.base import Backend
from gateway.backends.bedrock import BedrockBackend
from gateway.backends.credentials import AwsCredentials
from gateway.backends.endpoint import Endpoint, endpoint_of
from gateway.backends.engine import engine_backend
from gateway.backends.openai import OpenAIBackend
from gateway.backends.signing import SigV4Signer
from gateway.backends.skew import Skews
from gateway.egress.destinations import host_and_port
from gateway.hidden import told
from gateway.keys.keyring import TenantKeys
from gateway.openai import ChatRequest
from gateway.places import BACKEND_KINDS, Place
from gateway.policy.bundle import Bundle
from gateway.settings import BackendSettings, Settings, SettingsInvalid

INSTANCE_METADATA_PROVIDER = "iam-role"  # botocore's name for it


class Backends(Mapping[str, Backend]):
    """The backends by place id; built anew when another bundle comes into force."""

    def __init__(
        self, settings: Settings, http: aiohttp.ClientSession, keys: TenantKeys, skews: Skews
    ) -> None:
        self.skews = skews
        self._settings = settings
        self._http = http
        self._keys = keys
        self._backends: dict[str, Backend] = {}

    @functools.cached_property
    def _credentials(self) -> AwsCredentials:
        return aws_credentials(self._settings)

    def rebuild(self, bundle: Bundle) -> None:
        """Replaces every backend by one for this bundle's places; requests under way keep theirs."""
        built = (
            (place, self._build(place)) for place in bundle.places.values() if place.kind in BACKEND_KINDS
        )
        self._backends = {place.id: backend for place, backend in built if backend is not None}

    def unable(self, chat: ChatRequest, model: str) -> dict[str, tuple[str, ...]]:
        """Places that cannot honour a parameter of this request, with the names of those parameters; with
        none for a place that does not run the model."""
        unable = {place: backend.unsupported(chat) for place, backend in self._backends.items()}
        return {place: names for place, names in unable.items() if names or not self.runs(place, model)}

    def runs(self, place: str, model: str) -> bool:
        """Whether the backend has the model loaded: an engine runs one of those that its place may."""
        return (
            place != self._settings.engine_place
            or self._settings.engine_models in (None, ())
            or (model in (self._settings.engine_models or ()))
        )

    def _build(self, place: Place) -> Backend | None:
        settings = self._settings
        given = settings.backends.get(place.id)
        if place.kind == "bedrock":
            return self._build_bedrock(place)
        if place.kind == "engine":
            if place.id == settings.engine_place and settings.engine_url is not None:
                given = BackendSettings(url=settings.engine_url, secret=settings.engine_secret)
            if given is None or given.url is None or given.secret is None:
                return None
            return engine_backend(place, self._http, given.url, told(given.secret), self._keys.salt)
        if given is None:
            return None
        secret = told(given.secret) if given.secret else None
        if place.kind == "litellm":
            from gateway.backends.litellm_backend import LiteLLMBackend  # only where one is configured

            hosts = [host_and_port(name, "hosts")[0] for name in given.hosts]
            return LiteLLMBackend(place, api_key=secret, api_base=given.url, hosts=hosts)
        if given.url is None:
            raise SettingsInvalid((f"`backends.{place.id}` has no `url`; add the server's base URL",))
        return OpenAIBackend(place, self._http, given.url, secret)

    def _build_bedrock(self, place: Place) -> Backend | None:
        if self._settings.bedrock == "off" or place.region is None:
            return None
        endpoint = endpoint_of(place)
        if self._settings.bedrock == "emulator":
            url = self._settings.emulator_urls.get(place.region)
            if url is None:
                return None
            endpoint = Endpoint(url, emulated=True)
        skew = self.skews.of(endpoint.host, place.region)
        return BedrockBackend(
            place,
            self._http,
            SigV4Signer(self._credentials, place.region, skew),
            endpoint=endpoint,
            skew=skew,
            retried=functools.partial(self.skews.retried, place.region),
        )

    def keys(self) -> KeysView[str]:
        return self._backends.keys()  # a dict's own: a Mapping's looks each place up to find it there

    def __getitem__(self, place: str) -> Backend:
        return self._backends[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)


def aws_credentials(settings: Settings) -> AwsCredentials:
    """The machine's credentials, only for the real Bedrock; the emulator gets a pair that is worth nothing.

    Raises `SettingsInvalid` for a profile that does not exist.
    """
    if settings.bedrock == "emulator":
        return AwsCredentials(EmulatorSession())
    return AwsCredentials(aws_session(settings))


def aws_session(settings: Settings) -> boto3.Session:
    """The machine's own AWS configuration and credentials. Raises `SettingsInvalid` for a profile that does
    not exist."""
    try:
        # The whole chain: profile, SSO, web identity, instance roles. The region is the place's.
        found = botocore.session.Session()
        session = boto3.Session(profile_name=settings.aws_profile, botocore_session=found)
    except ProfileNotFound as error:
        raise SettingsInvalid(
            (f"{str(error).lower()}; name one of `~/.aws/config` in `aws_profile` or AWS_PROFILE",)
        ) from None
    if not settings.aws_instance_role:
        # Asked last, and on a machine outside AWS a question to an address that anybody may answer.
        found.get_component("credential_provider").remove(INSTANCE_METADATA_PROVIDER)
    return session


class EmulatorSession:
    """Stands where a boto3 session would: whatever AWS credentials the machine has, the demo uses none."""

    def get_credentials(self) -> Credentials:
        from gateway.testing.bedrock.signature import Keys  # the demo's part, not loaded otherwise

        return Credentials(Keys().access_key, Keys().secret_key)
