# Two images of the server, both without root:
#
#   docker build --target cpu -t internvl-server:cpu .                the CPU engine and the demo model
#   docker build --target turbomind -t internvl-server:turbomind .    LMDeploy TurboMind for NVIDIA GPUs
#
# They listen on every address of the container and therefore refuse to start without an API key or
# INTERNVL_SERVER__ALLOW_ANONYMOUS=true. Set the latter only where nobody but you reaches the port:
#
#   docker run --rm -p 127.0.0.1:8000:8000 -e INTERNVL_SERVER__ALLOW_ANONYMOUS=true internvl-server:cpu
#
# Several GPUs exchange data through NCCL, which needs shared memory beyond Docker's 64 MB, and locked pages:
#
#   docker run --rm --gpus all --shm-size 8g --ulimit memlock=-1 -v internvl-models:/models \
#     -p 127.0.0.1:8000:8000 -e INTERNVL_SERVER__API_KEYS='["a-long-random-key"]' \
#     internvl-server:turbomind --config configs/internvl3-38b.toml
#
# The base image is pinned by its exact tag. For a pin by content, look its digest up once
# (docker buildx imagetools inspect python:3.11.14-slim-bookworm) and give it as PYTHON_IMAGE=…@sha256:….
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /app

# What both images do when they run. The layer of dependencies comes from a builder stage.
FROM base AS runtime
RUN useradd --system --no-create-home --home-dir /models --uid 10001 internvl \
    && install --directory --owner=internvl --mode=0755 /models
# Hub downloads and their locks go to the volume; nothing else is written.
ENV HOME=/models \
    HF_HOME=/models \
    INTERNVL_SERVER__HOST=0.0.0.0
COPY configs configs
USER 10001
VOLUME /models
EXPOSE 8000
# Running requests are finished (server.drain_s, 90 s); give `docker stop` more than that: --time 120.
STOPSIGNAL SIGTERM
# Loading weights may take minutes: failures count only after the start period.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import sys, urllib.request as r; sys.exit(r.urlopen('http://127.0.0.1:8000/ready', timeout=4).status != 200)"]
ENTRYPOINT ["internvl-server", "serve"]

FROM base AS build-cpu
# Plain pip brings a CUDA build of several GB. Name the index of PyTorch's CPU builds here for a small image.
ARG TORCH_INDEX_URL=
# The linter takes the variable for a package without a version.
# hadolint ignore=DL3013
RUN python -m venv /opt/venv \
    && pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY server server
# The package is this folder.
# hadolint ignore=DL3013
RUN pip install ".[cpu]"

FROM base AS build-turbomind
# CUDA's libraries come as packages of lmdeploy; of the host only the NVIDIA driver is needed.
COPY pyproject.toml README.md LICENSE ./
COPY server server
# The package is this folder, which pins lmdeploy.
# hadolint ignore=DL3013
RUN python -m venv /opt/venv \
    && pip install ".[turbomind]"

FROM runtime AS turbomind
COPY --from=build-turbomind /opt/venv /opt/venv
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["--config", "configs/internvl3-2b.toml"]

FROM runtime AS cpu
# Serves the demo model, which is part of the package, unless told otherwise: --model /models/…
COPY --from=build-cpu /opt/venv /opt/venv
