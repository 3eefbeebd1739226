"""LMDeploy's own api_server with the engine settings that ours would have: run as a program.

python -m scripts.load.lmdeploy_server SETTINGS.json PORT
"""

import json
import sys
from pathlib import Path
from typing import Any

from internvl_server.engine.turbomind.authors_config import register_authors_config
from internvl_server.engine.turbomind.runtime import engine_config
from internvl_server.settings import Settings
from internvl_server.settings.loading import load_settings

__all__ = ["engine_config_of", "read_settings"]


def read_settings(path: str) -> Settings:
    """Settings whose nested values are in a file."""
    return load_settings(None, json.loads(Path(path).read_text()))


def engine_config_of(settings: Settings) -> Any:
    """LMDeploy's config for its engine."""
    return engine_config(
        settings.engine.turbomind,
        max_num_seqs=settings.engine.max_num_seqs,
        max_model_len=settings.model.max_model_len,
    )


def main(path: str, port: str) -> None:
    from lmdeploy.serve.openai import api_server

    settings = read_settings(path)
    register_authors_config()  # without it, it cannot read the authors' layout
    api_server.serve(
        settings.model.path,
        backend="turbomind",
        model_name=settings.model.served_name,
        backend_config=engine_config_of(settings),
        server_name="127.0.0.1",
        server_port=int(port),
        log_level="ERROR",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
