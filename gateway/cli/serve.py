"""`douane serve`: the gateway as a process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None  # type: ignore[assignment]

from gateway import logs
from gateway.audit.directory import AuditUnusable
from gateway.audit.s3 import BucketUnusable
from gateway.backends.environment import aws_configuration, forbidden_environment, forbidden_everywhere
from gateway.egress.guard import Egress
from gateway.egress.hook import install
from gateway.egress.loop import guarded_loop
from gateway.engine_process import EngineFailed
from gateway.keys.wrapping import KeyFileInvalid
from gateway.policy.problems import REFUSALS
from gateway.receipts.keys import SigningKeyInvalid
from gateway.serving import serve as serve_gateway
from gateway.settings import Settings, SettingsInvalid, read_settings
from gateway.sinks.environment import forbidden_otel_variables
from gateway.sinks.files import SinkUnusable
from gateway.store.address import StoreMisconfigured
from gateway.store.epochs import StateUnreadable

INVALID_INPUT = 3
NOT_STARTED = (
    SettingsInvalid,
    *REFUSALS,
    KeyFileInvalid,
    SigningKeyInvalid,
    AuditUnusable,
    BucketUnusable,
    SinkUnusable,
    EngineFailed,
    StoreMisconfigured,
    StateUnreadable,
)


@click.command()
@click.option(
    "--demo", is_flag=True, help="Everything on this machine: tiny model, emulated Bedrock, demo key."
)
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--policies", type=click.Path(path_type=Path), help="Directory of the policy bundle.")
def serve(demo: bool, **given: Any) -> None:
    """Run the gateway until Ctrl-C or SIGTERM.

    Settings come from `douane.yaml` and `DOUANE_*`; SIGHUP loads policies and receipt keys again.
    """
    logs.configure_logs()
    options = {name: value for name, value in given.items() if value is not None}
    egress = Egress()
    try:
        if demo:
            from gateway.demo.stack import serve_demo

            run(serve_demo(read_demo_settings(options), egress), egress)
        else:
            settings = read_settings(os.environ, **options)
            require_real(settings)
            require_clean_environment(settings)
            run(serve_gateway(settings, {}, lambda port: announce(settings, port), egress=egress), egress)
    except (*NOT_STARTED, OSError) as error:
        fail(error)


def run(serving: Coroutine[Any, Any, None], egress: Egress | None = None) -> None:
    """On uvloop where it is installed: a request costs a fifth less there than on asyncio's own loop.

    With `egress`, the loop and every thread of this process connect to destinations of that guard only.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if egress is not None:
        install(egress)
        factory = guarded_loop(egress)
    elif uvloop is not None:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serving)


def read_demo_settings(options: dict[str, Any]) -> Settings:
    from gateway.demo.stack import demo_settings

    settings = demo_settings(os.environ, options)
    require_clean_environment(settings)
    return settings


def require_real(settings: Settings) -> None:
    """Outside the demo nothing is emulated. Raises `SettingsInvalid`."""
    if settings.bedrock == "emulator" or settings.emulator_urls:
        raise SettingsInvalid(
            (
                "the Bedrock emulator is for the demo only; set DOUANE_BEDROCK=aws, or run "
                "`douane serve --demo`",
            )
        )
    if settings.demo_key is not None:
        raise SettingsInvalid(("`DOUANE_DEMO_KEY` is for `douane serve --demo` only; unset it",))


def require_clean_environment(settings: Settings) -> None:
    """Raises `SettingsInvalid` when a variable or AWS profile would send something somewhere else."""
    besides = [
        service
        for service, used in (("kms", settings.kms_key_id), ("s3", settings.audit_s3_bucket))
        if used is not None
    ]
    if settings.bedrock != "off" or besides:
        problems = forbidden_environment(os.environ, aws_configuration(), settings.aws_profile, besides)
    else:
        problems = forbidden_everywhere(os.environ)
    if settings.trace_url is not None:
        problems += forbidden_otel_variables(os.environ)
    if problems:
        raise SettingsInvalid(tuple(problems))
    if not settings.aws_instance_role:
        # For whatever else in this process speaks to AWS, as litellm may.
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def announce(settings: Settings, port: int) -> None:
    scheme = "https" if settings.tls_cert else "http"
    click.echo(
        f"douane listens on {scheme}://{settings.host}:{port}/v1 (policies: {settings.policies})", err=True
    )


def fail(error: Exception) -> NoReturn:
    problems = getattr(error, "problems", None) or getattr(error, "failures", None) or (error,)
    for problem in problems:
        text = problem.text() if hasattr(problem, "text") else str(problem)
        click.echo(f"douane: {text}", err=True)
    raise SystemExit(INVALID_INPUT)
