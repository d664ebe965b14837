import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from lncis.coco import images
from lncis.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


def save(path, orientation=None, pixels=PIXELS):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb_as_pillow_converts_it(tmp_path, mode):
    converted = Image.fromarray(PIXELS).convert(mode)
    converted.save(tmp_path / "image.tif")
    found = images.read(tmp_path / "image.tif", 30, 20)
    assert (found.shape, found.dtype) == ((20, 30, 3), np.uint8)
    assert np.array_equal(found, np.asarray(converted.convert("RGB")))


@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_the_annotated_size_decides_whether_an_image_is_turned(tmp_path, orientation):
    path = tmp_path / "image.png"
    save(path, orientation)
    assert np.array_equal(images.read(path, 30, 20), PIXELS), "as stored, where the stored size is annotated"
    turned = {
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, 3),
        7: np.rot90(PIXELS, 2).transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }
    if orientation in turned:
        assert np.array_equal(images.read(path, 20, 30), turned[orientation])
    else:
        with pytest.raises(DataError, match="30 x 20 pixels, the entry says 20 x 30"):
            images.read(path, 20, 30)


def test_an_image_of_another_size_is_refused(tmp_path):
    save(tmp_path / "image.png", pixels=PIXELS[:10])
    with pytest.raises(DataError, match=r"30 x 10 pixels, the entry says 30 x 20\); was it resized"):
        images.read(tmp_path / "image.png", 30, 20)


def test_16_bits_are_refused_instead_of_cut_off(tmp_path):
    Image.fromarray(np.full((20, 30), 30_000, dtype=np.uint16)).save(tmp_path / "image.png")
    with pytest.raises(DataError, match=r"has the mode I;16; save it with 8 bits a channel"):
        images.read(tmp_path / "image.png", 30, 20)


@pytest.mark.parametrize(("colour_type", "mode"), [(2, "RGB;16B"), (4, "LA;16B"), (6, "RGBA;16B")])
def test_16_bits_of_colour_are_refused_too(tmp_path, colour_type, mode):
    """Pillow opens them as RGB, of the upper 8 bits: 12-bit data would be nearly black."""
    channels = {2: 3, 4: 2, 6: 4}[colour_type]
    rows = b"".join(b"\0" + np.full((30, channels), 4000, dtype=">u2").tobytes() for _ in range(20))
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 30, 20, 16, colour_type, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts.items()
    ]
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(DataError, match=f"has the mode {mode}; save it with 8 bits a channel"):
        images.read(tmp_path / "image.png", 30, 20)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_named(tmp_path):
    path = tmp_path / "image.avif"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"image.avif: cannot be read as an image"):
        images.read(path, 30, 20)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "image.png"
    save(path)
    path.write_bytes({"cut": path.read_bytes()[:600], "text": b"no image", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"image.png: cannot be read as an image"):
        images.read(path, 30, 20)
