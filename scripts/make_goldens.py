"""Write tests/data/tiling.json: what two published implementations make of many images.

Run it with a Python that has torch, torchvision, transformers and Pillow 12 (none of them the server's):

    pip download lmdeploy==0.18.0 --no-deps
    python scripts/make_goldens.py lmdeploy-0.18.0-*.whl

Pillow 13 begins the resize of some shapes with the vertical pass; the models were trained with older ones.

The authors' preprocessing is taken out of LMDeploy's wheel when this runs (two functions, Apache-2.0,
copied there from OpenGVLab's InternVL-Chat-V1-5) and followed by torchvision's own transforms, as
LMDeploy composes them. Transformers' is `GotOcr2ImageProcessor`, which InternVL's processor uses, with
both backends. Nothing of either is kept but sizes, grids, digests and a few pixel values.
"""

import ast
import hashlib
import json
import platform
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image
from torchvision.transforms.functional import InterpolationMode
from transformers.models.got_ocr2 import image_processing_got_ocr2 as hf
from transformers.models.got_ocr2 import image_processing_pil_got_ocr2 as hf_pil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.parity.pictures import CAPS, PIXEL_CASES, SIZES, make_picture, sample  # noqa: E402

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TILE_PX = 448
LAST_PILLOW = 12
MODULE = "lmdeploy/vl/model/internvl.py"
FUNCTIONS = ("find_closest_aspect_ratio", "dynamic_preprocess")


def load_reference(wheel: Path) -> Any:
    """`dynamic_preprocess` out of the wheel, without importing LMDeploy."""
    source = zipfile.ZipFile(wheel).read(MODULE).decode()
    nodes = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS
    ]
    assert [node.name for node in nodes] == list(FUNCTIONS)
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(nodes, []), MODULE, "exec"), namespace)
    return namespace["dynamic_preprocess"]


def make_transform() -> Any:
    """The transform LMDeploy 0.18.0 composes in `InternVLVisionModel.build_preprocessor`."""
    return T.Compose(
        [
            T.Lambda(lambda image: image.convert("RGB") if image.mode != "RGB" else image),
            T.Resize((TILE_PX, TILE_PX), interpolation=InterpolationMode.BICUBIC),
            T.ToTensor(),
            T.Normalize(mean=MEAN, std=STD),
        ]
    )


class Canvas:
    """Stands in for an image where only the grid is asked for: records how it is resized."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.sizes: list[tuple[int, int]] = []

    def resize(self, size: tuple[int, int]) -> "Canvas":
        self.sizes.append(size)
        return self

    def crop(self, _box: object) -> "Canvas":
        return self


def make_grids(dynamic_preprocess: Any) -> dict[str, dict[str, list[int]]]:
    """For each size and cap: columns, rows, tiles; all implementations must agree."""
    grids: dict[str, dict[str, list[int]]] = {}
    for width, height in SIZES:
        row = grids.setdefault(f"{width}x{height}", {})
        for cap in CAPS:
            canvas = Canvas((width, height))
            tiles = dynamic_preprocess(canvas, max_num=cap, use_thumbnail=True)
            columns, rows = (side // TILE_PX for side in canvas.sizes[0])
            for module in (hf, hf_pil):
                grid = module.get_optimal_tiled_canvas((height, width), (TILE_PX, TILE_PX), 1, cap)
                assert grid == (columns, rows), (module, width, height, cap)
            row[str(cap)] = [columns, rows, len(tiles)]
    return grids


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values)).hexdigest()


def hf_values(processor: Any, image: Image.Image, cap: int) -> np.ndarray:
    values = processor(
        image,
        size={"height": TILE_PX, "width": TILE_PX},
        crop_to_patches=True,
        max_patches=cap,
        image_mean=list(MEAN),
        image_std=list(STD),
        return_tensors="np",
    )["pixel_values"]
    return np.asarray(values, dtype=np.float32)


def levels(values: np.ndarray) -> np.ndarray:
    """The uint8 levels that normalised values stand for, as floats."""
    mean, std = (np.array(v, dtype=np.float64).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return (values * std + mean) * 255


def make_pixels(dynamic_preprocess: Any) -> list[dict[str, Any]]:
    transform = make_transform()
    torchvision_backend = hf.GotOcr2ImageProcessor()
    pil_backend = hf_pil.GotOcr2ImageProcessorPil()
    cases = []
    for size, mode, cap in PIXEL_CASES:
        image = make_picture(*size, mode)
        rgb = image.convert("RGB")
        tiles = dynamic_preprocess(rgb, max_num=cap, use_thumbnail=True)
        values = torch.stack([transform(tile) for tile in tiles]).numpy()
        uint8 = np.stack([np.asarray(tile) for tile in tiles])
        hf_torchvision = hf_values(torchvision_backend, rgb, cap)
        hf_pillow = hf_values(pil_backend, rgb, cap)
        difference = levels(hf_torchvision) - levels(values)
        case = {
            "size": list(size),
            "mode": mode,
            "max_tiles": cap,
            "num_tiles": len(tiles),
            "uint8_sha256": digest(uint8),
            "lmdeploy_float32_sha256": digest(values),
            "lmdeploy_sample": sample(values),
            "hf_pil_sample": sample(hf_pillow),
            "hf_torchvision_sample": sample(hf_torchvision),
            "hf_pil_max_levels": round(float(np.abs(levels(hf_pillow) - levels(values)).max()), 4),
            "hf_torchvision_max_levels": round(float(np.abs(difference).max()), 4),
            "hf_torchvision_mean_levels": round(float(np.abs(difference).mean()), 4),
        }
        print({k: v for k, v in case.items() if "sample" not in k and "sha" not in k})
        cases.append(case)
    return cases


def main(wheel: Path) -> None:
    assert int(version("pillow").split(".")[0]) <= LAST_PILLOW, "needs Pillow 12"
    dynamic_preprocess = load_reference(wheel)
    goldens = {"grids": make_grids(dynamic_preprocess), "pixels": make_pixels(dynamic_preprocess)}
    packages = ("torch", "torchvision", "transformers", "pillow", "numpy")
    about = {
        "file": "tiling.json",
        "tool": "scripts/make_goldens.py",
        "command": f"python scripts/make_goldens.py {wheel.name}",
        "sources": {
            "lmdeploy_wheel": wheel.name,
            "lmdeploy_wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }
    folder = ROOT / "tests" / "data"
    (folder / "tiling.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
    (folder / "tiling.about.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
