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


# Bytes of the text model's matrices and of everything else, in billions of parameters of this shape.
MATRICES, OTHERS = 0.494, 0.448


@pytest.mark.parametrize(
    ("dtype", "quantization", "matrix_bytes", "other_bytes"),
    [("bfloat16", "none", 2, 2), ("float32", "none", 4, 4), ("float32", "int8", 1, 4)],
)
def test_memory_is_that_of_the_weights_and_little_more(
    folder, dtype, quantization, matrix_bytes, other_bytes, record_property
):
    options = ["--dtype", dtype, "--quantization", quantization, "--repeats", "1"]
    command = [sys.executable, "-m", "tests.model.measure_cpu_engine", str(folder), *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = json.loads(output)
    record_property("measured", measured)
    weights_gib = (MATRICES * matrix_bytes + OTHERS * other_bytes) * 1e9 / 2**30
    # The requests use little of the memory for keys and values.
    assert measured["anonymous_gib"] < weights_gib + 1
