"""LMDeploy's own api_server, in this process: its app is asked without a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
from fastapi import FastAPI
from internvl_server.app import create_app
from internvl_server.engine.turbomind.authors_config import register_authors_config
from internvl_server.settings import Settings
from lmdeploy.messages import TurbomindEngineConfig
from lmdeploy.serve.core.health import EngineHealthMonitor
from lmdeploy.serve.openai import api_server


@asynccontextmanager
async def upstream(model: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """`lmdeploy serve api_server MODEL --enable-prefix-caching`, ready to be asked."""
    register_authors_config()  # without it, it cannot read the authors' layout
    apps: list[FastAPI] = []
    config = TurbomindEngineConfig(
        session_len=2048, max_batch_size=4, enable_prefix_caching=True, devices=[0]
    )
    with mock.patch.object(api_server.uvicorn, "run", lambda app, **options: apps.append(app)):
        api_server.serve(
            str(model),
            backend="turbomind",
            model_name="m",
            backend_config=config,
            log_level="ERROR",
        )
    (app,) = apps
    # Its monitor cannot be stopped in the middle of a probe: on Python 3.11 `wait_for` swallows the
    # cancellation when the probe has just ended, and the app's shutdown waits for ever.
    with mock.patch.object(EngineHealthMonitor, "start", return_value=None):
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=app), base_url="http://upstream", timeout=60
            ) as client,
        ):
            yield client


async def ask(client: httpx2.AsyncClient, messages: list[Any], **fields: Any) -> httpx2.Response:
    body = {"model": "m", "messages": messages} | fields
    return await client.post("/v1/chat/completions", json=body)


@asynccontextmanager
async def ours(model: Path, *, resize: str = "auto") -> AsyncIterator[httpx2.AsyncClient]:
    """Our whole server with the turbomind engine, ready to be asked."""
    settings = Settings(
        model={"path": str(model), "served_name": "m"},
        engine={"kind": "turbomind", "max_num_seqs": 4},
        media={"num_workers": 1, "resize": resize},
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://ours", timeout=60
        ) as client:
            while (await client.get("/ready")).status_code != HTTPStatus.OK:
                await asyncio.sleep(0.05)
            yield client
