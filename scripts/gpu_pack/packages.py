"""Which packages travel in the pack, and which the machine has to have.

The versions are those of scripts/constraints. The pack's packages are found before the machine's, so one
that both have is in the pack only where the machine's may be too old.
"""

SERVER = (
    "annotated-doc", "annotated-types", "anyio", "attrs", "fastapi", "h11", "httpcore2",
    "httptools", "httpx2", "idna", "jinja2", "jsonschema", "jsonschema-specifications",
    "markupsafe", "opentelemetry-api", "pillow", "pydantic", "pydantic-core", "pydantic-settings",
    "python-dotenv", "referencing", "rpds-py", "seccompy", "setproctitle", "shtab",
    "sse-starlette", "starlette", "truststore", "typing-extensions", "typing-inspection",
    "uvicorn",
)  # fmt: skip
LMDEPLOY = (
    "addict", "apache-tvm-ffi", "lmdeploy", "mmengine-lite", "nvidia-cuda-runtime-cu12",
    "platformdirs", "pybase64", "shortuuid", "termcolor", "xgrammar", "yapf",
)  # fmt: skip
# The trials' client, LMDeploy's own server, with which gpu-bench compares, and the loading tests.
TRIALS = (
    "fire", "iniconfig", "jiter", "openai", "openai-harmony", "partial-json-parser", "pluggy",
    "pytest", "pytest-asyncio", "pytest-timeout", "sniffio",
)  # fmt: skip
PACKED = (*SERVER, *LMDEPLOY, *TRIALS)

# With what these need. Without `av` (35 MB), which is not packed, HEIC files and videos are not served.
MACHINE = (
    "accelerate", "aiohttp", "numpy", "prometheus-client", "protobuf", "psutil", "requests",
    "sentencepiece", "tiktoken", "tokenizers", "torch", "torchvision", "transformers", "uvloop",
)  # fmt: skip

# Parts of packages that nothing here uses.
LEFT_OUT = (
    "bin", "lmdeploy/turbomind/include", "lmdeploy/turbomind/lib64",
    "nvidia/cuda_runtime/include", "tvm_ffi/include", "yapftests",
)  # fmt: skip
