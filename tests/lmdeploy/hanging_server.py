"""The server on the stand-in loop, which hangs at the first real request, and says so.

FOLDER EXIT_AFTER_S [PORT]
"""

import sys
from unittest import mock

from internvl_server.serve import serve
from internvl_server.settings.loading import load_settings

from tests.lmdeploy.native import Call, Loop, Plan, stand_ins

HANGS = "TurboMind hangs"


def main(folder: str, exit_after_s: str, port: str = "0") -> int:
    loop = Loop()

    def hang(call: Call) -> Plan:
        is_trial = bool(call.config["output_logits"])
        if not is_trial:
            loop.freeze()
            sys.stderr.write(f"{HANGS}\n")
        return Plan([65])

    loop.plan = hang
    settings = load_settings(
        None,
        {
            "model": {"path": folder, "accept_any_name": True},
            "server": {"port": int(port), "drain_s": 1},
            "engine": {
                "kind": "turbomind",
                "turbomind": {"exit_after_stall_s": float(exit_after_s)},
            },
        },
    )
    with (
        stand_ins(loop, close_s=0.5),
        mock.patch("internvl_server.app.check_backend", return_value=()),
    ):
        return serve(settings)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
