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


@pytest.mark.parametrize("ending", ["tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_every_format_is_turned_alike(tmp_path, ending, orientation):
    """Pillow turns a TIFF by itself when it is loaded, and has its upright size from the start."""
    smooth = np.asarray(Image.fromarray(PIXELS[:4, :6]).resize((30, 20)))
    path, plain = tmp_path / f"image.{ending}", tmp_path / f"plain.{ending}"
    lossless = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(smooth).save(plain, **lossless)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth).save(path, exif=exif, **lossless)
    stored = np.asarray(Image.open(plain).convert("RGB"))
    assert np.array_equal(images.read(path, 30, 20), stored)
    assert images.examine(path, 30, 20)[1] == (orientation != 1)
    upright = {
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, 3),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored),
    }
    head = images.head_of(path)
    assert head[:3] == (30, 20, orientation)
    assert head.upright == ((20, 30) if orientation >= 5 else (30, 20))
    if orientation >= 5:
        assert np.array_equal(images.read(path, 20, 30), upright[orientation])
        assert images.examine(path, 20, 30)[1] is False


def planar_tiff(bits: int) -> bytes:
    """Return an RGB TIFF of 60 x 48 with a plane for each colour, as tifffile writes arrays of (3, H, W)."""
    size = bits // 8 * 60 * 48
    planes = b"".join(struct.pack("<H" if bits == 16 else "<B", x * 4) for x in range(60)) * 48 * 3
    arrays = 8 + len(planes) + 2 + 12 * 10 + 4
    tags = [(256, 4, 1, 60), (257, 4, 1, 48), (258, 3, 3, arrays), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, arrays + 6), (277, 3, 1, 3), (278, 4, 1, 48), (279, 4, 3, arrays + 18), (284, 3, 1, 2)]
    content = b"II*\0" + struct.pack("<I", 8 + len(planes)) + planes + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return content + struct.pack("<3H6I", *3 * (bits,), *(8 + k * size for k in range(3)), *3 * (size,))


def test_more_than_8_bits_are_refused_in_every_form(tmp_path):
    (tmp_path / "planar.tif").write_bytes(planar_tiff(16))
    (tmp_path / "maximum.ppm").write_bytes(b"P6 60 48 1023\n" + bytes(60 * 48 * 6))
    Image.new("RGB", (60, 48)).save(tmp_path / "image.sgi", bpc=2)
    for name in ("planar.tif", "maximum.ppm", "image.sgi"):
        with pytest.raises(images.UnusableImage, match=r"has the mode RGB;1[06]; save it with 8 bits a channel"):
            images.read(tmp_path / name, 60, 48)
    (tmp_path / "planar8.tif").write_bytes(planar_tiff(8))
    assert images.read(tmp_path / "planar8.tif", 60, 48)[7, :, 1].tolist() == [4 * x for x in range(60)]
    (tmp_path / "plain.ppm").write_bytes(b"P6 60 48 255\n" + bytes(60 * 48 * 3))
    assert images.read(tmp_path / "plain.ppm", 60, 48).shape == (48, 60, 3)


def test_whatever_pillow_raises_for_a_damaged_file_is_said(tmp_path):
    path = tmp_path / "image.spi"
    Image.new("F", (60, 48)).save(path, "SPIDER")
    content = bytearray(path.read_bytes())
    content[104:108] = struct.pack("<f", 1)  # an image of a stack that is none: AttributeError
    path.write_bytes(content)
    with pytest.raises(images.UnusableImage, match=r"image.spi: cannot be read as an image"):
        images.read(path, 60, 48)


def test_an_image_of_another_size_is_refused(tmp_path):
    save(tmp_path / "image.png", pixels=PIXELS[:10])
    with pytest.raises(DataError, match=r"30 x 10 pixels, the entry says 30 x 20\); was it resized"):
        images.read(tmp_path / "image.png", 30, 20)


def test_16_bits_are_refused_instead_of_cut_off(tmp_path):
    Image.fromarray(np.full((20, 30), 30_000, dtype=np.uint16)).save(tmp_path / "image.png")
    with pytest.raises(DataError, match=r"has the mode I;16; save it with 8 bits a channel"):
        images.read(tmp_path / "image.png", 30, 20)


@pytest.mark.parametrize(("colour_type", "mode"), [(2, "RGB;16"), (4, "RGBA;16"), (6, "RGBA;16")])
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
