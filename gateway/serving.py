"""From settings to a running gateway: opens the seams, serves until asked to stop, closes them."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from gateway import logs
from gateway.app import create_app
from gateway.backends.base import BackendFault
from gateway.context import GatewayContext
from gateway.egress.destinations import destinations
from gateway.egress.guard import Egress
from gateway.engine_process import running_engine
from gateway.opening import open_context
from gateway.server import GatewayServer, bound_socket, require_certificate, server_config
from gateway.settings import Settings

LOAD_POLL_S = 1.0  # between two questions to an engine about its load

CUT_OFF_S = 5.0  # for answers that were cut off at the end of the grace time to be recorded


async def serve(
    settings: Settings,
    demo_keys: Mapping[str, str],
    started: Callable[[int], None],
    stop: asyncio.Event | None = None,
    egress: Egress | None = None,
) -> None:
    """Serves until SIGINT, SIGTERM or `stop`; calls `started` with the port once it accepts connections.

    `egress` is the guard of the whole process, where there is one.
    """
    loop = asyncio.get_running_loop()
    logs.log_loop_errors(loop)
    require_certificate(settings)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bound_socket(settings))  # first: whatever follows takes longer to fail
        if egress is not None:
            egress.put_in_force(destinations(settings, None))
        settings = await stack.enter_async_context(with_engine(settings))
        context = await stack.enter_async_context(open_context(settings, demo_keys, egress))
        reloads: set[asyncio.Task[bool]] = set()

        def reload() -> None:
            for coroutine in (context.policies.reload(), context.signer.reload(context.audit)):
                task = loop.create_task(coroutine)
                reloads.add(task)
                task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        server = GatewayServer(
            server_config(create_app(settings, context), settings), context.readiness.stop, started
        )
        watching = [asyncio.create_task(watch_engines(context))]
        if stop is not None:
            watching.append(asyncio.create_task(server.stop_when(stop)))
        try:
            await server.serve([listener])
        finally:
            for task in watching:
                task.cancel()
            if tasks := server.server_state.tasks:
                for task in tasks:
                    if not task.cancelling():  # a second signal did not wait for the grace time to end it
                        task.cancel()
                await asyncio.wait(tasks, timeout=CUT_OFF_S)


@asynccontextmanager
async def with_engine(settings: Settings) -> AsyncIterator[Settings]:
    """The settings, with URL and secret of an engine that runs as long as the block, if one is to run."""
    if settings.model is None or settings.engine_url is not None:
        yield settings
        return
    secret_file = settings.state_dir / "engine-secret"
    async with running_engine(settings.model, settings.engine_port, secret_file) as engine:
        yield Settings.model_validate(
            {
                **settings.model_dump(),
                "engine_url": engine.url,
                "engine_secret": engine.secret,
                "engine_models": engine.models,
            }
        )


async def watch_engines(context: GatewayContext) -> None:
    """Asks the local engines for their load, again and again: routes spill by it.

    Only engines: a place that no request has been permitted to is not called, not even empty-handed. Says in
    the log when one begins to be out of reach or comes back.
    """
    engines = {place: each for place, each in context.backends.items() if each.place.kind == "engine"}
    reached = dict.fromkeys(engines, True)
    while engines:
        for place, backend in engines.items():
            try:
                load = await backend.probe()
            except BackendFault as fault:
                context.health.reported(place, 0, 0)
                if reached[place]:
                    logs.event("backend_not_ready", logging.WARNING, place=place, fault=fault.kind)
                reached[place] = False
                continue
            if load is not None:
                context.health.reported(place, load.slots, load.waiting)
            if not reached[place]:
                logs.event("backend_ready", logging.INFO, place=place)
            reached[place] = True
        await asyncio.sleep(LOAD_POLL_S)
