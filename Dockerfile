# hadolint global ignore=DL3042
# pip's cache is a mount, which does not become part of an image.

# Two images of the server; neither runs as root:
#
#   docker build --target cpu -t internvl-server:cpu .                the CPU engine and the demo model
#   docker build --target turbomind -t internvl-server:turbomind .    LMDeploy TurboMind for NVIDIA GPUs
#
# They listen on every address of the container and therefore refuse to start without an API key or
# INTERNVL_SERVER__ALLOW_ANONYMOUS=true. Set the latter only where no one else can reach the port:
#
#   docker run --rm -p 127.0.0.1:8000:8000 -e INTERNVL_SERVER__ALLOW_ANONYMOUS=true internvl-server:cpu
#
# Several GPUs exchange data through NCCL, which needs shared memory beyond Docker's 64 MB, and locked pages:
#
#   docker run --rm --gpus all --shm-size 8g --ulimit memlock=-1 -v internvl-models:/models \
#     -p 127.0.0.1:8000:8000 -e INTERNVL_SERVER__API_KEYS='["a-long-random-key"]' \
#     internvl-server:turbomind --config configs/internvl3-38b.toml
#
# The dependencies have the versions of scripts/constraints, and their layers depend on that folder and pyproject.toml
# only: a change of code installs nothing again. Needs BuildKit, Docker's builder since version 23.
#
# The base image is pinned by its exact tag. To pin it by content, look up its digest once
# (docker buildx imagetools inspect python:3.11.14-slim-bookworm) and pass it as PYTHON_IMAGE=…@sha256:….
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CACHE_DIR=/opt/pip-cache \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /app

# What both images have in common at run time. Their virtual environments come from the build stages.
FROM base AS runtime
RUN useradd --system --no-create-home --home-dir /models --uid 10001 internvl \
    && install --directory --owner=internvl --mode=0755 /models
# Downloads from the Hugging Face Hub and their locks go to the volume; nothing else is written.
ENV HOME=/models \
    HF_HOME=/models \
    INTERNVL_SERVER__HOST=0.0.0.0
COPY configs configs
USER 10001
VOLUME /models
EXPOSE 8000
# Running requests are finished (server.drain_s, 90 s); give `docker stop` more time than that: --time 120.
STOPSIGNAL SIGTERM
# Failures count only after the start period. The weights of the 78B, 146 GiB, may have to be downloaded first.
HEALTHCHECK --interval=10s --timeout=5s --start-period=2h --retries=3 \
    CMD ["python", "-c", "import sys, urllib.request as r; sys.exit(r.urlopen('http://127.0.0.1:8000/ready', timeout=4).status != 200)"]
ENTRYPOINT ["internvl-server", "serve"]

# The project's metadata around an empty package: enough to install its dependencies.
FROM base AS metadata
WORKDIR /src
COPY pyproject.toml ./
COPY scripts/constraints scripts/constraints
RUN python -m venv /opt/venv \
    && mkdir -p server/internvl_server \
    && touch README.md LICENSE \
    && echo '__version__ = "0"' >server/internvl_server/__init__.py

FROM metadata AS build-cpu
# pip's default index has a CUDA build of several GB. For a small image, pass the index of PyTorch's CPU builds.
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/opt/pip-cache \
    pip install --no-deps --constraint scripts/constraints/cpu.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch \
    && pip install --constraint scripts/constraints/cpu.txt ".[cpu]"
COPY README.md LICENSE ./
COPY configs configs
COPY server server
RUN --mount=type=cache,target=/opt/pip-cache \
    pip install --no-deps .

FROM metadata AS build-turbomind
# LMDeploy is built for CUDA 12, but pip's default index has torch for CUDA 13, which needs driver 580. For older
# drivers, pass PyTorch's own index of builds for CUDA 12.6 (its address ends in /cu126). server/docs/gpus.md has the
# combinations. Both torch and lmdeploy bring NCCL; the last line installs the one that is used.
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/opt/pip-cache \
    pip install --no-deps --constraint scripts/constraints/turbomind.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision \
    && pip install --constraint scripts/constraints/turbomind.txt ".[turbomind]" \
    && pip install --no-deps --force-reinstall --constraint scripts/constraints/cuda.txt "nvidia-nccl-cu12>=2.30.4"
COPY README.md LICENSE ./
COPY configs configs
COPY server server
RUN --mount=type=cache,target=/opt/pip-cache \
    pip install --no-deps .

FROM runtime AS turbomind
COPY --from=build-turbomind /opt/venv /opt/venv
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["--config", "configs/internvl3-2b.toml"]

FROM runtime AS cpu
# Serves the demo model, which is part of the package, unless given another one: --model /models/…
COPY --from=build-cpu /opt/venv /opt/venv
