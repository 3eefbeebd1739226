"""A model of InternVL3-1B's shape loads and streams within 8 GiB. Writes 1.9 GB, takes minutes."""

import json
import shutil
import subprocess
import sys

import pytest

from scripts.make_random_checkpoint import SHAPES, write_checkpoint

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("1b")
    write_checkpoint(folder, SHAPES["1b"], layout="authors", dtype="bfloat16")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_1b_streams_within_8_gib(folder, dtype, record_property):
    command = [sys.executable, "-m", "tests.model.measure_cpu_engine", str(folder), dtype]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = json.loads(output)
    record_property("measured", measured)
    assert measured["peak_rss_gib"] < 8
    assert measured["text_tokens_per_s"] > 0
