"""The start-up check in a real process, with a driver written in C, and the NCCL of this environment."""

import base64
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
#include <stdlib.h>
#include <string.h>
static long setting(const char *name) { return atol(getenv(name)); }
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = setting("STUB_CUDA"); return 0; }
int cuDeviceGetCount(int *count) { *count = setting("STUB_GPUS"); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index >= setting("STUB_GPUS") ? 101 : 0; }
int cuDeviceGetAttribute(int *value, int number, int device) { *value = number == 75 ? 9 : 0; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void *context) { return 0; }
int cuCtxPopCurrent_v2(void **context) { return 0; }
int cuMemGetInfo_v2(size_t *bytes, size_t *total) {
    *bytes = (size_t)setting("STUB_FREE_GIB") << 30;
    *total = (size_t)24 << 30;
    return 0;
}
"""
FINE = {"STUB_CUDA": "13000", "STUB_GPUS": "2", "STUB_FREE_GIB": "23"}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    command = ["gcc", "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", folder / "driver.c"]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize(
    ("change", "options", "numbers"),
    [
        ({"STUB_CUDA": "12020"}, (), ("CUDA 12.2", "CUDA 13.0")),
        ({"STUB_FREE_GIB": "3"}, (), ("24.0 GiB", "3.0 GiB")),
        ({}, ("--set", "engine.turbomind.devices=[2]"), ("names GPU 2", "shows 2")),
    ],
)
def test_serve_ends_before_a_download(driver, change, options, numbers):
    model = "OpenGVLab/InternVL3-8B-hf"
    command = [sys.executable, "-m", "internvl_server", "serve", model, "--engine", "turbomind"]
    environment = {**os.environ, **FINE, **change, "LD_LIBRARY_PATH": str(driver)}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1, done.stderr
    assert all(number in done.stderr for number in numbers), done.stderr
    assert "downloaded" not in done.stderr


def test_one_package_owns_nccl():
    """Two packages install this file; the one of LMDeploy's CUDA must have been the last."""
    name = "nvidia/nccl/lib/libnccl.so.2"
    owners = {}
    for package in importlib.metadata.distributions():
        for file in package.files or ():
            if str(file) == name:
                owners[package.name] = (file.hash.value, file.locate())
    digests = {hashlib.sha256(Path(path).read_bytes()).digest() for _, path in owners.values()}
    [found] = {base64.urlsafe_b64encode(digest).rstrip(b"=").decode() for digest in digests}
    [owner] = [name for name, (value, _) in owners.items() if value == found]
    version = importlib.metadata.version(owner)
    assert owner == "nvidia-nccl-cu12"
    assert tuple(map(int, version.split("."))) >= (2, 30, 4)
