"""The pictures both the goldens and the parity tests are made of; deterministic, no files."""

import numpy as np
from PIL import Image

CAPS = (1, 2, 6, 12, 24, 40)

SIZES = (
    (1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (20, 4000), (4000, 20), (1, 4000), (4000, 1), (7, 5),
    (64, 64), (100, 100), (223, 225), (320, 240), (447, 447), (448, 448), (449, 449), (447, 448),
    (448, 449), (449, 448), (448, 896), (896, 448), (895, 448), (897, 448), (633, 633), (634, 634),
    (633, 634), (634, 633), (635, 635), (896, 896), (897, 897), (1267, 1267), (1268, 1268),
    (1343, 1343), (1344, 1344), (640, 480), (800, 600), (1024, 768), (1280, 720), (1366, 768),
    (1920, 1080), (1080, 1920), (2560, 1440), (3840, 2160), (1440, 900), (3024, 4032), (4032, 3024),
    (4000, 3000), (3000, 4000), (1170, 2532), (1290, 2796), (1125, 2436), (2048, 1536), (6000, 4000),
    (8000, 1000), (1000, 8000), (12000, 500), (500, 12000), (16384, 82), (82, 16384), (10000, 5000),
    (1250, 1000), (1000, 1250), (1500, 1000), (875, 1000), (1100, 1000), (350, 300), (510, 400),
    (2480, 3508), (3508, 2480), (1654, 2339), (17, 31), (31, 17), (999, 1001), (5, 4), (4, 5),
)  # fmt: skip

PIXEL_CASES = (
    ((1, 1), "RGB", 12), ((3, 1), "RGB", 12), ((17, 31), "RGB", 12), ((447, 449), "RGB", 12),
    ((448, 448), "RGB", 12), ((634, 634), "RGB", 12), ((800, 600), "RGB", 12),
    ((800, 600), "RGB", 1), ((800, 600), "RGB", 6), ((1920, 1080), "RGB", 12),
    ((1080, 1920), "RGB", 24), ((3024, 4032), "RGB", 12), ((4000, 20), "RGB", 12),
    ((1344, 1344), "RGB", 40), ((640, 480), "L", 12), ((640, 480), "1", 12), ((640, 480), "P", 12),
    ((640, 480), "CMYK", 12),
    # Here the order of the two passes of the resize matters: Pillow 13 begins with the vertical one.
    ((1080, 1920), "RGB", 12), ((1600, 900), "RGB", 12), ((853, 480), "RGB", 12),
    ((1170, 2532), "RGB", 12), ((1125, 2436), "RGB", 12),
)  # fmt: skip


def make_picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Gradients with fine and coarse detail and hard edges, in integer arithmetic only."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    red = (x * 255) // max(width - 1, 1)
    green = (y * 255) // max(height - 1, 1)
    blue = ((x * x + 3 * x * y + 7 * y * y) // 64) % 256
    edges = ((x // 29 + y // 23) % 2) * 120
    picture = np.stack([(red + edges) % 256, (green + blue // 3) % 256, blue ^ edges], axis=-1)
    image = Image.fromarray(picture.astype(np.uint8))
    if mode == "P":
        return image.quantize(64, method=Image.Quantize.FASTOCTREE)
    return image if mode == "RGB" else image.convert(mode)


def sample(values: np.ndarray) -> list[float]:
    """Some 60 values of every part of (tiles, 3, side, side), as float32 prints them."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    places = np.linspace(0, flat.size - 1, 61).astype(np.int64)
    return [float(value) for value in flat[places]]
