"""The check that decides whether images may be resized fast."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from internvl_server.core import PixelType
from internvl_server.errors import StartupError
from internvl_server.media.pixels import resizing
from internvl_server.media.preparer import MediaPreparer
from internvl_server.settings import MediaSettings
from PIL import Image

OTHER_ORDER = "cykooz-resizer does not resize as expected"


class OneCall(resizing.FastResizer):
    """As cykooz-resizer does it by itself: the vertical pass first."""

    def planes(self, image: Image.Image, size: tuple[int, int]) -> Iterator[np.ndarray]:
        resized = Image.new("RGB", size)
        self._resizer.resize_pil(image, resized, self._options)
        for band in resized.split():
            yield np.frombuffer(band.tobytes(), np.uint8)


class Shifted(resizing.FastResizer):
    """As if the layout of Pillow's images in memory had changed."""

    def planes(self, image: Image.Image, size: tuple[int, int]) -> Iterator[np.ndarray]:
        for plane in super().planes(image, size):
            yield np.roll(plane, 1)


def test_nothing_is_wrong_here() -> None:
    assert resizing.find_problem() is None


@pytest.mark.parametrize("wrong", [OneCall, Shifted])
def test_other_pixels_are_noticed(
    wrong: type[resizing.FastResizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resizing, "FastResizer", wrong)
    assert resizing.find_problem() == OTHER_ORDER


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)


@pytest.mark.usefixtures("uninstalled")
def test_without_the_package_images_are_resized_exactly() -> None:
    assert resizing.find_problem() == "cykooz-resizer is not installed"
    preparer = MediaPreparer(MediaSettings(), pixel_type=lambda: PixelType.BFLOAT16)
    assert preparer.resize == "exact"


@pytest.mark.usefixtures("uninstalled")
def test_fast_cannot_be_had_without_the_package() -> None:
    with pytest.raises(StartupError, match=r"not installed. Install internvl-server\[fast\]"):
        MediaPreparer(MediaSettings(resize="fast"))


@pytest.mark.parametrize(
    ("setting", "pixel_type", "resize"),
    [
        ("auto", PixelType.BFLOAT16, "fast"),
        ("auto", PixelType.FLOAT16, "fast"),
        ("auto", PixelType.FLOAT32, "exact"),
        ("fast", PixelType.FLOAT32, "fast"),
        ("exact", PixelType.BFLOAT16, "exact"),
    ],
)
def test_auto_depends_on_the_pixel_type(setting: str, pixel_type: PixelType, resize: str) -> None:
    preparer = MediaPreparer(MediaSettings(resize=setting), pixel_type=lambda: pixel_type)
    assert preparer.resize == resize
