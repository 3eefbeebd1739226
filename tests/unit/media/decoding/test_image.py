import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from internvl_server.errors import ImageDecodeError, ImageTooLargeError
from internvl_server.media.decoding.image import FORMATS, DecodeLimits, decode_image, read_size
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from tests.unit.media.conftest import encode, make_image

LIMITS = DecodeLimits(max_pixels=1_000_000, max_side_px=4000, max_aspect_ratio=200)
WHITE = (255, 255, 255)


def decode(data: bytes, limits: DecodeLimits = LIMITS) -> Image.Image:
    image = decode_image(data, limits)
    assert image.mode == "RGB"
    return image


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_tiff_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF file whose first directory has another value for a tag."""
    start = data.index(struct.pack("<H", tag), int.from_bytes(data[4:8], "little")) + 8
    return data[:start] + struct.pack("<I", value) + data[start + 4 :]


def make_png(width: int, height: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


class TestFormats:
    @pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP", "TIFF"])
    def test_lossless(self, image_format: str) -> None:
        image = make_image().quantize(200).convert("RGB")
        assert np.array_equal(decode(encode(image, image_format)), image)

    @pytest.mark.parametrize(
        ("image_format", "options"),
        [
            ("JPEG", {"quality": 95}),
            ("JPEG", {"quality": 95, "progressive": True}),
            ("WEBP", {"quality": 95}),
            ("AVIF", {"quality": 95}),
            ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
            ("TIFF", {"compression": "jpeg", "quality": 95}),
            ("MPO", {"quality": 95, "save_all": True}),
        ],
    )
    def test_lossy(self, image_format: str, options: dict[str, object]) -> None:
        image = make_image()
        decoded = decode(encode(image, image_format, **options))
        difference = np.abs(np.asarray(decoded, dtype=int) - np.asarray(image, dtype=int))
        assert decoded.size == image.size
        assert difference.mean() < 5

    @pytest.mark.parametrize(
        "image_format",
        ["PPM", "TGA", "PCX", "ICO", "JPEG2000", "PDF", "EPS", "SGI", "DDS"],
    )
    def test_other_formats_are_refused(self, image_format: str) -> None:
        with pytest.raises(ImageDecodeError, match="JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"):
            decode(encode(make_image(), image_format))

    @pytest.mark.parametrize(
        "data",
        [b"", b"\0", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n",
         b"<html>" * 50, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP",
         b"\xff" * 1000],
    )  # fmt: skip
    def test_a_file_that_is_not_an_image_is_refused(self, data: bytes) -> None:
        with pytest.raises(ImageDecodeError) as error:
            decode(data)
        assert "0x" not in error.value.message

    def test_only_the_first_frame_is_decoded(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
        for image_format in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
            data = encode(
                frames[0], image_format, save_all=True, append_images=frames[1:], lossless=True
            )
            assert decode(data).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=2)

    @pytest.mark.parametrize(
        "compression",
        ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "group3", "group4"],
    )
    @pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "CMYK", "P", "I;16"])
    def test_tiff(self, compression: str, mode: str) -> None:
        if compression.startswith("group") and mode != "1":
            return
        image = make_image().convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        data = encode(image, "TIFF", compression=compression)
        decoded = decode(data)
        expected = make_image().convert("L").convert("RGB") if mode == "I;16" else image
        assert np.array_equal(decoded, expected.convert("RGB"))
        with pytest.raises(ImageDecodeError):
            decode(data[: len(data) // 2])

    def test_tiff_whose_white_is_zero(self) -> None:
        grey = np.asarray(make_image().convert("L"))
        data = encode(Image.fromarray((255 - grey).astype(np.uint16) * 257), "TIFF")
        data = with_tiff_tag(data, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
        assert np.array_equal(decode(data), Image.fromarray(grey).convert("RGB"))

    def test_tiff_with_12_bits(self) -> None:
        # Each sample pair of 0x123 and 0x456 is three bytes.
        pairs = Image.frombytes("I;16", (6, 4), bytes.fromhex("123456") * 16)
        data = encode(pairs, "TIFF")
        data = with_tiff_tag(data, TiffImagePlugin.BITSPERSAMPLE, 12)
        data = with_tiff_tag(data, TiffImagePlugin.IMAGEWIDTH, 8)
        row = [round(0x123 / 4095 * 255), round(0x456 / 4095 * 255)] * 4
        assert np.array_equal(decode(data), np.repeat([row] * 4, 3).reshape(4, 8, 3))

    @pytest.mark.parametrize("compression", ["lzma", "zstd"])
    def test_other_compressions_of_tiff_are_refused(self, compression: str) -> None:
        with pytest.raises(ImageDecodeError, match="compression of the TIFF"):
            decode(encode(make_image(), "TIFF", compression=compression))

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_32_bit_samples_are_refused(self, mode: str) -> None:
        with pytest.raises(ImageDecodeError, match="8 or 16 bits"):
            decode(encode(make_image().convert("L").convert(mode), "TIFF"))

    def test_signed_samples_are_named(self) -> None:
        data = encode(make_image().convert("I;16"), "TIFF", tiffinfo={339: 2})
        with pytest.raises(ImageDecodeError, match="signed"):
            decode(data)

    def test_a_jpeg_of_12_bits_is_not_called_invalid_alone(self) -> None:
        data = encode(make_image(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c")
        with pytest.raises(ImageDecodeError, match="of a supported kind"):
            decode(data)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
    def test_bmp(self, mode: str) -> None:
        image = make_image().convert(mode)
        data = encode(image, "BMP")
        assert np.array_equal(decode(data), image.convert("RGB"))
        with pytest.raises(ImageDecodeError):
            decode(data[:-10])

    def test_avif_with_alpha(self) -> None:
        data = encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "AVIF")
        assert decode(data).getpixel((0, 0)) == WHITE

    def test_a_video_is_named(self) -> None:
        with pytest.raises(ImageDecodeError, match="'video_url' part"):
            decode(b"\0\0\0\x20ftypisom" + bytes(100))

    def test_trailing_bytes_are_ignored(self) -> None:
        for image_format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
            data = encode(make_image(), image_format)
            assert np.array_equal(decode(data), decode(data + b"<html>trailer\xff\xda\0"))


class TestModes:
    def test_transparency_becomes_white(self) -> None:
        image = Image.new("RGBA", (4, 1))
        image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128), (0, 255, 0, 1)])
        pixels = list(decode(encode(image)).get_flattened_data())
        assert pixels == [(255, 0, 0), WHITE, (127, 127, 127), (254, 255, 254)]

    def test_grey_with_alpha(self) -> None:
        image = Image.new("LA", (2, 1))
        image.putdata([(0, 0), (10, 255)])
        assert list(decode(encode(image)).get_flattened_data()) == [WHITE, (10, 10, 10)]

    def test_webp_with_alpha(self) -> None:
        data = encode(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "WEBP", lossless=True)
        assert decode(data).getpixel((0, 0)) == WHITE

    @pytest.mark.parametrize("image_format", ["PNG", "GIF"])
    def test_palette_with_one_transparent_colour(self, image_format: str) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putdata([0, 1])
        data = encode(image, image_format, transparency=0)
        assert list(decode(data).get_flattened_data()) == [WHITE, (0, 0, 255)]

    def test_palette_with_alpha_for_each_colour(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.putdata([0, 1])
        data = encode(image, transparency=bytes([255, 128]))
        assert list(decode(data).get_flattened_data()) == [(255, 0, 0), (127, 127, 127)]

    @pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7))])
    def test_transparent_colour_key(self, mode: str, key: int | tuple[int, ...]) -> None:
        image = Image.new(mode, (2, 1), key)
        image.putpixel((1, 0), 0 if mode == "L" else (0, 0, 0))
        data = encode(image, transparency=key)
        assert list(decode(data).get_flattened_data()) == [WHITE, (0, 0, 0)]

    def test_16_bit_grey_is_scaled(self) -> None:
        levels = np.array([[0, 128, 129, 257, 32768, 65535, 65278, 300]], dtype=np.uint16)
        decoded = np.asarray(decode(encode(Image.fromarray(levels))))[0, :, 0]
        assert decoded.tolist() == np.rint(levels[0] / 257).astype(int).tolist()

    def test_16_bit_grey_with_a_transparent_level(self) -> None:
        rows = png_chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HH", 1000, 0)))
        data = make_png(2, 1, 16, 0, png_chunk(b"tRNS", struct.pack(">H", 1000)), rows)
        assert list(decode(data).get_flattened_data()) == [WHITE, (0, 0, 0)]

    def test_16_bit_rgb_and_grey_alpha(self) -> None:
        rgb = make_png(
            1,
            1,
            16,
            2,
            png_chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 65535, 0, 257))),
        )
        assert decode(rgb).getpixel((0, 0)) == (255, 0, 1)
        grey = make_png(
            1, 1, 16, 4, png_chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HH", 0, 0)))
        )
        assert decode(grey).getpixel((0, 0)) == WHITE

    def test_1_bit(self) -> None:
        image = Image.new("1", (2, 1))
        image.putpixel((1, 0), 1)
        assert list(decode(encode(image)).get_flattened_data()) == [(0, 0, 0), WHITE]

    def test_grey_jpeg(self) -> None:
        assert decode(encode(Image.new("L", (8, 8), 77), "JPEG")).getpixel((1, 1)) == (77, 77, 77)

    def test_cmyk_jpeg(self) -> None:
        """Pillow writes CMYK inverted with an Adobe marker, as Photoshop does."""
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        assert decode(encode(image, "JPEG", quality=95)).getpixel((8, 8)) == pytest.approx(
            (255, 0, 0), abs=6
        )

    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3), (3, 1), (1, 200), (200, 1)])
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_tiny_images(self, size: tuple[int, int], mode: str) -> None:
        image = Image.new(mode, size)
        assert decode(encode(image)).size == size


class TestOrientation:
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_is_applied(self, image_format: str, orientation: int) -> None:
        upright = make_image(192, 128)
        stored = {
            1: upright,
            2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            3: upright.transpose(Image.Transpose.ROTATE_180),
            4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
            5: upright.transpose(Image.Transpose.TRANSPOSE),
            6: upright.transpose(Image.Transpose.ROTATE_90),
            7: upright.transpose(Image.Transpose.TRANSVERSE),
            8: upright.transpose(Image.Transpose.ROTATE_270),
        }[orientation]
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        data = encode(stored, image_format, exif=exif, quality=95, lossless=True)
        decoded = decode(data)
        assert decoded.size == upright.size == read_size(data, LIMITS)
        assert np.abs(np.asarray(decoded, int) - np.asarray(upright, int)).mean() < 4

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_unknown_is_ignored(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        assert decode(encode(make_image(24, 16), "JPEG", exif=exif)).size == (24, 16)

    @pytest.mark.parametrize(
        "exif",
        [
            b"Exif\0\0",
            b"Exif\0\0garbage",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0MM\0*" + b"\xff" * 40,
        ],
    )
    def test_broken_exif_is_ignored(self, exif: bytes) -> None:
        data = encode(make_image(24, 16), "JPEG", exif=exif)
        assert decode(data).size == read_size(data, LIMITS) == (24, 16)


class TestLimits:
    @pytest.mark.parametrize(
        ("size", "limits", "setting"),
        [
            ((101, 100), DecodeLimits(10_000, 1000, 200), "max_image_pixels"),
            ((101, 10), DecodeLimits(10_000, 100, 200), "max_image_side_px"),
            ((10, 101), DecodeLimits(10_000, 100, 200), "max_image_side_px"),
            ((21, 10), DecodeLimits(10_000, 100, 2), "max_aspect_ratio"),
            ((10, 21), DecodeLimits(10_000, 100, 2), "max_aspect_ratio"),
        ],
    )
    def test_header_over_a_limit(
        self, size: tuple[int, int], limits: DecodeLimits, setting: str
    ) -> None:
        for image_format in FORMATS:
            data = encode(make_image(*size), image_format)
            for read in (decode_image, read_size):
                with pytest.raises(ImageTooLargeError, match=setting):
                    read(data, limits)

    def test_limits_are_inclusive(self) -> None:
        limits = DecodeLimits(max_pixels=20_000, max_side_px=200, max_aspect_ratio=2)
        assert decode(encode(make_image(200, 100)), limits).size == (200, 100)

    @pytest.mark.parametrize("side", [1001, 1500, 30_000, 65_535, 2**31 - 1])
    def test_bomb_is_refused_by_its_header(self, side: int) -> None:
        bomb = make_png(side, side, 1, 0, png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)))
        with pytest.raises((ImageTooLargeError, ImageDecodeError)):
            decode(bomb)

    def test_pillow_settings_of_other_libraries_are_overridden(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with pytest.raises(ImageDecodeError):
            decode(encode(make_image(), "JPEG")[:-100])
        assert LIMITS.max_pixels == Image.MAX_IMAGE_PIXELS
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False


class TestCorrupt:
    @pytest.mark.parametrize(
        ("image_format", "options"),
        [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}),
         ("WEBP", {"lossless": True}), ("AVIF", {}), ("BMP", {})],
    )  # fmt: skip
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99, -25])
    def test_truncated(self, image_format: str, options: dict[str, object], kept: float) -> None:
        data = encode(make_image(200, 150), image_format, **options)
        cut = int(kept) if kept < 0 else int(len(data) * kept)
        with pytest.raises(ImageDecodeError) as error:
            decode(data[:cut])
        assert error.value.message.startswith("The image is")

    def test_truncated_gif(self) -> None:
        data = encode(make_image(200, 150), "GIF")
        for kept in (0.1, 0.5, 0.9, 0.99):
            with pytest.raises(ImageDecodeError):
                decode(data[: int(len(data) * kept)])

    @pytest.mark.parametrize("lossless", [False, True])
    def test_truncated_webp(self, lossless: bool) -> None:
        data = encode(make_image(200, 150), "WEBP", lossless=lossless)
        for num_lost in (1, 2, 12):
            with pytest.raises(ImageDecodeError):
                decode(data[:-num_lost])

    @hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(FORMATS),
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=20),
    )
    def test_mutations_are_decoded_or_refused(
        self, image_format: str, changes: list[tuple[int, int]]
    ) -> None:
        data = bytearray(encode(make_image(), image_format))
        for place, value in changes:
            data[place % len(data)] = value
        with suppress(ImageDecodeError, ImageTooLargeError):
            decode(bytes(data))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP"])
def test_size_is_read_without_decoding(image_format: str) -> None:
    data = encode(make_image(200, 150), image_format)
    assert read_size(data[: len(data) // 2], LIMITS) == (200, 150)


def test_input_may_be_any_bytes_object() -> None:
    assert decode(bytes(io.BytesIO(encode(make_image())).getbuffer())).size == (64, 48)
