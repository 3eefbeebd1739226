"""Run a module on the stand-ins.

python -m scripts.stand_in [--scripted] [--step-ms 10] [--grammar-cache-kib 256] MODULE [ARGUMENT …]
"""

import argparse
import runpy
import sys
from collections import deque
from unittest import mock

from scripts.stand_in.answers import Computed, scripted
from scripts.stand_in.driver import install_driver


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.stand_in", description=__doc__)
    parser.add_argument("--scripted", action="store_true", help="answers that cost nothing")
    parser.add_argument("--step-ms", type=float, default=1.0, help="of the native loop")
    parser.add_argument("--grammar-cache-kib", type=int, help="of TurboMind's compiler")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    from internvl_server.engine.turbomind import runtime
    from internvl_server.engine.turbomind.runtime import Runtime

    from tests.lmdeploy import native

    # Calls hold the pixels of their images, so none is kept.
    loop = native.Loop(step_s=options.step_ms / 1000, calls=deque(maxlen=0))
    computed = Computed(loop)
    compile_grammar = Runtime.compile_grammar

    def compile_and_remember(self: Runtime, tag: str) -> object:
        grammar = compile_grammar(self, tag)
        if not options.scripted:  # else nobody asks for it, and it would stay
            computed.grammars[grammar] = tag
        return grammar

    def plan(call: native.Call) -> native.Plan:
        native.VOCABULARY = loop.vocab_size
        return scripted(loop) if options.scripted else computed(call)

    if options.grammar_cache_kib is not None:
        runtime._GRAMMAR_CACHE_BYTES = options.grammar_cache_kib << 10
    loop.plan = plan
    install_driver()
    sys.argv = [options.module, *options.arguments]
    with (
        native.stand_ins(loop),
        mock.patch.object(Runtime, "compile_grammar", compile_and_remember),
    ):
        runpy.run_module(options.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
