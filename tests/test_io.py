"""Reading pictures, finding them, and writing files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from localize import io

# A picture whose four corners differ, so that any flip or turn of it shows.
CORNERS = np.zeros((24, 40, 3), np.uint8)
CORNERS[:12, :20] = (250, 20, 20)
CORNERS[:12, 20:] = (20, 250, 20)
CORNERS[12:, :20] = (20, 20, 250)
CORNERS[12:, 20:] = (240, 240, 240)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def close(pixels: np.ndarray, expected: object, within: int = 3) -> bool:
    return bool(np.abs(pixels.astype(int) - np.asarray(expected, int)).max() <= within)


def refusal(source: object, **options: int) -> str:
    """The one sentence that a picture is refused with."""
    with pytest.raises(io.ImageError) as caught:
        io.read_image(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


# Image files ------------------------------------------------------------------------------------


def test_a_picture_is_writable_contiguous_rgb_and_knows_its_file_name(tmp_path: Path) -> None:
    path = tmp_path / "corners.png"
    Image.fromarray(CORNERS).save(path)
    picture = io.read_image(path)
    assert picture.file == "corners.png"
    assert picture.notes == ()
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable
    np.testing.assert_array_equal(picture.pixels, CORNERS)


def test_path_bytes_image_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(CORNERS).save(path)
    expected = io.read_image(path).pixels
    data = path.read_bytes()
    for source in (str(path), data, bytearray(data), Image.open(path), expected):
        np.testing.assert_array_equal(io.read_image(source).pixels, expected)


STORED_AS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera stores an upright picture under each EXIF orientation."""


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_exif_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](CORNERS)))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    pixels = io.read_image(encoded(stored, kind, exif=exif, **options)).pixels
    assert pixels.shape == CORNERS.shape
    for y, x in ((4, 4), (4, 35), (19, 4), (19, 35)):
        assert close(pixels[y, x], CORNERS[y, x], within=12)


def test_a_picture_with_damaged_exif_is_shown_as_it_is_stored() -> None:
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(9),
        b"Exif\0\0" + b"?" * 99,
    ):
        data = encoded(Image.fromarray(CORNERS), "JPEG", exif=exif, quality=95)
        assert io.read_image(data).pixels.shape == CORNERS.shape


def test_transparency_is_put_on_mid_grey() -> None:
    rgba = np.dstack([CORNERS, np.full(CORNERS.shape[:2], 255, np.uint8)])
    rgba[:, :10, 3] = 0
    rgba[:, 30:, 3] = 128
    pixels = io.read_image(encoded(Image.fromarray(rgba), "PNG")).pixels
    assert close(pixels[:, :10], 128)
    assert close(pixels[:, 10:30], CORNERS[:, 10:30], within=0)
    assert close(pixels[:, 30:], CORNERS[:, 30:] * 0.5 + 64)
    np.testing.assert_array_equal(io.read_image(rgba).pixels, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_is_put_on_mid_grey(mode: str, kind: str) -> None:
    image = Image.fromarray((CORNERS // 128 * 255).astype(np.uint8)).convert(mode)
    if kind == "GIF" and mode in ("1", "RGB"):
        image = image.convert("P")
    corner = image.getpixel((0, 0))
    pixels = io.read_image(encoded(image, kind, transparency=corner)).pixels
    assert close(pixels[0, 0], 128)
    assert not close(pixels[23, 39], 128)


def test_a_palette_with_half_transparent_colours_is_put_on_mid_grey() -> None:
    image = Image.fromarray(CORNERS).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    opaque = np.asarray(image.convert("RGB"), int)
    data = encoded(image, "PNG", transparency=bytes([0, 128, 255, 255]))
    alpha = np.array([0, 128, 255, 255])[np.asarray(image)][..., None] / 255
    assert close(io.read_image(data).pixels, opaque * alpha + 128 * (1 - alpha))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_every_mode_shows_the_same_picture(mode: str) -> None:
    blocks = np.where(CORNERS[..., :1] > 128, 255, 0).astype(np.uint8).repeat(3, axis=2)
    image = Image.fromarray(blocks).convert(mode)
    assert close(io.read_image(image).pixels, blocks)
    if mode in ("CMYK", "LAB", "YCbCr", "RGBX"):
        assert close(io.read_image(encoded(image, "TIFF")).pixels, blocks)
    if mode == "CMYK":
        assert close(io.read_image(encoded(image, "JPEG", quality=100)).pixels, blocks, within=9)


RAMP = np.linspace(0, 1, 256).reshape(8, 32)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_to_8_bits(kind: str) -> None:
    image = Image.fromarray(np.round(RAMP * 65535).astype(np.uint16))
    pixels = io.read_image(encoded(image, kind)).pixels
    assert close(pixels, np.round(RAMP * 255)[..., None], within=0)


def test_a_dark_16_bit_picture_stays_dark() -> None:
    image = Image.fromarray(np.round(RAMP * 255).astype(np.uint16))
    assert io.read_image(encoded(image, "PNG")).pixels.max() == 1


@pytest.mark.parametrize(
    ("values", "noted"),
    [(RAMP, False), (RAMP * 255, False), (RAMP * 9000 - 77, True), (RAMP * 1e-3 + 700, True)],
)
def test_float_grey_is_scaled_by_its_range(values: np.ndarray, noted: bool) -> None:
    picture = io.read_image(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"))
    assert close(picture.pixels, np.round(RAMP * 255)[..., None], within=18 if noted else 0)
    assert any("stretched" in note for note in picture.notes) == noted


def test_32_bit_grey_is_scaled_by_its_range() -> None:
    for top in (255, 65535, 2_000_000_000):
        image = Image.fromarray(np.round(RAMP * top).astype(np.int32))
        assert close(io.read_image(encoded(image, "TIFF")).pixels, np.round(RAMP * 255)[..., None])


def test_nan_and_infinite_grey_become_black_and_white() -> None:
    values = np.array([[0, 1, np.nan, np.inf, -np.inf]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = io.read_image(Image.fromarray(values)).pixels
        nothing = io.read_image(Image.fromarray(values * np.nan)).pixels
    assert pixels[0, :, 0].tolist() == [0, 255, 0, 255, 0]
    assert not nothing.any()


def test_a_colour_profile_is_converted_to_srgb() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(CORNERS)
    same = io.read_image(encoded(image, "PNG", icc_profile=srgb))
    np.testing.assert_array_equal(same.pixels, CORNERS)
    assert same.notes == ()
    misfit = io.read_image(encoded(image, "PNG", icc_profile=lab))
    np.testing.assert_array_equal(misfit.pixels, CORNERS)
    assert "colour profile" in misfit.notes[0]


def swapped_profile() -> bytes:
    """sRGB's profile with its red and blue columns exchanged, and no name to know it by."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = data.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_colour_profile_other_than_srgb_changes_the_colours(kind: str) -> None:
    image = Image.new("RGB", (16, 16), (250, 20, 20))
    data = encoded(image, kind, icc_profile=swapped_profile(), quality=95)
    red, _, blue = io.read_image(data).pixels[8, 8].tolist()
    assert blue > 200
    assert red < 60


def test_a_damaged_colour_profile_is_left_out_and_noted() -> None:
    for profile in (b"no profile", bytes(200), swapped_profile()[:150]):
        picture = io.read_image(encoded(Image.fromarray(CORNERS), "PNG", icc_profile=profile))
        np.testing.assert_array_equal(picture.pixels, CORNERS)
        assert "colour profile" in picture.notes[0]


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("GIF", "first of 3 frames"),
        ("WEBP", "first of 3 frames"),
        ("PNG", "first of 3 frames"),
        ("AVIF", "first of 3 frames"),
        ("TIFF", "first of 3 pages"),
    ],
)
def test_of_several_frames_the_first_is_taken_and_that_is_noted(kind: str, note: str) -> None:
    first = Image.new("RGB", (16, 16), (200, 60, 60))
    others = [Image.new("RGB", (16, 16), colour) for colour in ("blue", "white")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=others, **options)
    picture = io.read_image(data)
    assert picture.notes == (note,)
    assert close(picture.pixels, (200, 60, 60), within=6)


def test_heic_is_read_with_the_extra_and_else_says_which() -> None:
    header = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    try:
        import pillow_heif
    except ImportError:
        assert "clip-localize[heif]" in refusal(header)
    else:
        pillow_heif.register_heif_opener()
        data = encoded(Image.fromarray(CORNERS.repeat(4, 0).repeat(4, 1)), "HEIF", quality=95)
        assert close(io.read_image(data).pixels[10, 10], CORNERS[2, 2], within=12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3, 20000), (5000, 1)])
def test_pictures_of_odd_shapes_are_read(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(
        io.read_image(encoded(Image.fromarray(pixels), "PNG")).pixels, pixels
    )


# Refusals ---------------------------------------------------------------------------------------


def test_what_is_no_picture_is_refused_in_a_sentence_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("This is a text, and not a picture at all.\n")
    (tmp_path / "two\nlines.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {
        "missing.jpg": "no such file",
        "folder.jpg": "a folder",
        "empty.png": "empty",
        "text.jpg": "not a picture",
        "two\nlines.png": "damaged",
        "pipe.png": "not a plain file",
        "null\0.png": "null character",
        "x" * 300 + ".png": "too long",
    }
    for name, reason in reasons.items():
        message = refusal(tmp_path / name)
        assert reason in message
        assert io.display_name(name) in message


FORBIDDEN = """
import os, sys
from localize import io
if os.geteuid() == 0:  # root may do anything, nobody may not
    os.setuid(65534)
for act in (lambda: io.read_image(sys.argv[1]), lambda: io.write_bytes(sys.argv[2], b"data")):
    try:
        act()
    except (io.ImageError, io.OutputError) as error:
        print(error)
print(*io.find_images([sys.argv[3]]))
"""


def test_what_the_user_may_not_read_or_write_is_named(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret.png", tmp_path / "folder"
    Image.fromarray(CORNERS).save(secret)
    folder.mkdir()
    secret.chmod(0)
    folder.chmod(0)
    arguments = [str(secret), str(folder / "new.json"), str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, *arguments], capture_output=True, text=True, check=True
    )
    folder.chmod(0o700)
    reading, writing, finding = done.stdout.splitlines()
    assert reading == f"cannot read {secret}: permission denied"
    assert writing == f"cannot write {folder}/new.json: permission denied"
    assert finding.startswith("[] ")
    assert str(folder) in finding
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000"])
def test_a_picture_cut_short_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for part in (0.1, 0.5, 0.9):
        assert "damaged" in refusal(data[: int(len(data) * part)])


def test_an_image_without_pixels_is_refused() -> None:
    for size in ((0, 5), (5, 0)):
        assert "no pixels" in refusal(Image.new("RGB", size))


def test_a_picture_with_a_wrong_ending_is_read_by_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(CORNERS).save(path, "PNG")
    np.testing.assert_array_equal(io.read_image(path).pixels, CORNERS)


def test_postscript_and_pdf_are_never_handed_to_another_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    for kind in ("EPS", "PDF"):
        assert "not a picture" in refusal(encoded(Image.fromarray(CORNERS), kind))


BOMB = """
import resource, sys
from localize import io
resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                                        + 2**31, resource.RLIM_INFINITY))
try:
    io.read_image(sys.stdin.buffer.read())
except io.ImageError as error:
    print(error)
"""


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_decompression_bomb_is_refused_before_memory_is_taken() -> None:
    """30000 x 30000 pixels would take 3.6 GB; the process may take 2 GB."""
    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 30000 // 8) * 30000)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert len(bomb) < 200_000
    done = subprocess.run(
        [sys.executable, "-c", BOMB], input=bomb, capture_output=True, timeout=60, check=True
    )
    assert b"30000 x 30000 pixels are more than the limit" in done.stdout
    assert done.stderr == b""


def test_the_limit_on_pixels_is_the_callers() -> None:
    data = encoded(Image.fromarray(CORNERS), "PNG")
    assert "limit of 959" in refusal(data, max_pixels=959)
    assert io.read_image(data, max_pixels=960).pixels.shape == CORNERS.shape
    assert "limit of 959" in refusal(Image.open(BytesIO(data)), max_pixels=959)


def icon(side: int) -> bytes:
    """An ICO file that says it holds 16 x 16 pixels and holds a larger PNG file."""
    inside = encoded(Image.new("1", (side, side)), "PNG")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    return b"\0\0\1\0\1\0" + entry + inside


def test_an_icon_with_a_larger_picture_than_it_says_is_held_to_the_limit() -> None:
    assert "more than the limit" in refusal(icon(200), max_pixels=30_000)
    assert io.read_image(icon(200), max_pixels=40_000).pixels.shape == (200, 200, 3)


def test_the_limit_holds_for_formats_that_pillow_limits_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strip = encoded(Image.new("L", (300, 200)), "TIFF", strip_size=10**9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    assert io.read_image(strip).pixels.shape == (200, 300, 3)
    assert "more than the limit" in refusal(strip, max_pixels=50_000)
    assert Image.MAX_IMAGE_PIXELS == 1_000


def test_reading_leaves_pillows_own_limit_and_the_warning_filters_alone() -> None:
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    io.read_image(encoded(Image.fromarray(CORNERS), "PNG"))
    refusal(b"nothing")
    assert limit == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters


def test_threads_read_at_the_same_time_and_get_the_right_pictures() -> None:
    sources = [
        encoded(Image.fromarray(np.roll(CORNERS, shift, 1)), kind)
        for shift in range(6)
        for kind in ("PNG", "TIFF", "GIF", "BMP")
    ]
    expected = [io.read_image(source).pixels for source in sources]
    wrong: list[int] = []

    def read(start: int) -> None:
        for index in np.roll(np.arange(len(sources)), start):
            if not np.array_equal(io.read_image(sources[index]).pixels, expected[index]):
                wrong.append(int(index))

    threads = [threading.Thread(target=read, args=(3 * start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reading_ahead_keeps_the_order_and_goes_on_after_what_cannot_be_read() -> None:
    good = [encoded(Image.new("RGB", (4, 4), (shade,) * 3), "PNG") for shade in range(60)]
    sources: list[io.ImageSource] = [*good[:30], b"no picture", *good[30:]]
    given = list(io.read_ahead(sources))
    assert [source for source, _ in given] == sources
    shades = [
        picture.pixels[0, 0, 0] if isinstance(picture, io.Picture) else None for _, picture in given
    ]
    assert shades == [*range(30), None, *range(30, 60)]
    assert isinstance(given[30][1], io.ImageError)


def test_reading_ahead_takes_no_more_than_a_few_pictures_that_nobody_asked_for() -> None:
    data = encoded(Image.fromarray(CORNERS), "PNG")
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield data

    pictures = io.read_ahead(endless())
    for _ in range(5):
        next(pictures)
    pictures.close()
    assert len(taken) <= 5 + 2 * io.READERS


# Arrays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        CORNERS,
        CORNERS.astype(np.uint16) * 257,
        CORNERS.astype(np.float32) / 255,
        CORNERS.astype(np.float64) / 255,
        CORNERS.astype(np.int64),
        CORNERS.astype(np.float32),
        CORNERS.transpose(2, 0, 1),
        np.asfortranarray(CORNERS),
        CORNERS.repeat(2, axis=1)[:, ::2],
        CORNERS[::-1, ::-1][::-1, ::-1],
        CORNERS.astype(">u2") * 257,
        CORNERS.astype(np.float64) / 255 * 1.0005 - 1e-4,
        np.ma.masked_array(CORNERS, CORNERS > 5),
        torch.from_numpy(CORNERS),
        torch.from_numpy(CORNERS).permute(2, 0, 1).float() / 255,
        torch.from_numpy(CORNERS).permute(2, 0, 1).double().requires_grad_() / 255,
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}-{tuple(array.shape)}",
)
def test_arrays_whose_meaning_is_plain_are_accepted(array: np.ndarray | torch.Tensor) -> None:
    np.testing.assert_array_equal(io.read_image(array).pixels, CORNERS)


def test_half_precision_arrays_are_accepted() -> None:
    tensor = torch.from_numpy(CORNERS).permute(2, 0, 1).float() / 255
    assert close(io.read_image(tensor.half()).pixels, CORNERS, within=1)
    assert close(io.read_image(tensor.bfloat16()).pixels, CORNERS, within=1)


def test_grey_and_bool_arrays_are_accepted() -> None:
    grey = CORNERS[..., 0]
    expected = np.stack([grey] * 3, axis=2)
    for array in (grey, grey[..., None], grey[None]):
        np.testing.assert_array_equal(io.read_image(array).pixels, expected)
    mask = grey > 128
    np.testing.assert_array_equal(io.read_image(mask).pixels[..., 0], mask * 255)


def test_arrays_that_fit_both_orders_are_read_as_is_usual() -> None:
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    np.testing.assert_array_equal(io.read_image(array).pixels, array)
    tensor = torch.from_numpy(array)
    np.testing.assert_array_equal(io.read_image(tensor).pixels, array.transpose(1, 2, 0))


def test_a_picture_does_not_change_with_the_array_it_came_from() -> None:
    array = CORNERS.copy()
    picture = io.read_image(array)
    array[:] = 0
    np.testing.assert_array_equal(picture.pixels, CORNERS)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(5), r"\(H, W\)"),
        (np.zeros((5, 5, 2)), r"\(H, W\)"),
        (np.zeros((1, 3, 8, 8)), "one image at a time"),
        (np.zeros((0, 5, 3)), r"not \(0, 5, 3\)"),
        (np.full((4, 4, 3), 150.5), "0, 1"),
        (np.linspace(-2, 2, 48).reshape(4, 4, 3), "from -2 to 2"),
        (np.full((4, 4), np.nan), "finite"),
        (np.full((4, 4), np.inf), "finite"),
        (np.full((4, 4), 256), "from 256 to 256"),
        (np.full((4, 4), -1), "from -1"),
    ],
)
def test_arrays_whose_meaning_is_not_plain_are_refused(array: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        io.read_image(array)


@pytest.mark.parametrize(
    "source", [None, 3, [[1, 2]], np.zeros((4, 4), complex), np.full((4, 4), "x"), object()]
)
def test_what_is_no_image_is_a_type_error_that_says_what_is(source: object) -> None:
    with pytest.raises(TypeError, match="must be"):
        io.read_image(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(3, 5, 5, device="meta"),
        torch.zeros(5, 5).to_sparse(),
        torch.zeros(3, 5, 5, dtype=torch.complex64).conj(),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_that_hold_no_pixels_are_type_errors(tensor: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="must be"):
        io.read_image(tensor)


# Finding pictures -------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/notes.txt", ".hidden.png", ".git/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(CORNERS).save(path, "PNG")
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_gives_its_pictures_sorted_without_hidden_ones(album: Path) -> None:
    paths, problems = io.find_images([album])
    assert names(paths) == ["a.PNG", "b.jpg", "c.webp"]
    assert problems == []


def test_files_are_taken_whatever_they_are_called_and_in_their_order(album: Path) -> None:
    inputs = [album / "sub/notes.txt", album / "b.jpg", album / ".hidden.png"]
    assert io.find_images(inputs)[0] == inputs


def test_globs_that_the_shell_left_are_expanded(album: Path) -> None:
    assert names(io.find_images([f"{album}/*.jpg"])[0]) == ["b.jpg"]
    assert names(io.find_images([f"{album}/**/*.webp"])[0]) == ["c.webp"]
    assert names(io.find_images([f"{album}/su?"])[0]) == ["c.webp"]


def test_a_file_named_like_a_glob_is_that_file(album: Path) -> None:
    for name in ("[ab].jpg", "*.jpg"):
        (album / name).write_bytes((album / "b.jpg").read_bytes())
        assert names(io.find_images([album / name])[0]) == [name]


def test_each_picture_is_found_once(album: Path) -> None:
    inputs = [album / "b.jpg", album, f"{album}/*.jpg", album / "sub" / ".." / "b.jpg"]
    assert names(io.find_images(inputs)[0]) == ["b.jpg", "a.PNG", "c.webp"]


def test_inputs_that_give_nothing_are_named_and_the_others_found(album: Path) -> None:
    (album / "bare").mkdir()
    (album / "folder.jpg").mkdir()
    inputs = [album / "missing.jpg", album / "b.jpg", f"{album}/*.tiff", album / "bare", "x\0y"]
    paths, problems = io.find_images(inputs)
    assert names(paths) == ["b.jpg"]
    assert len(problems) == 4
    for problem, name in zip(problems, ("missing.jpg", "*.tiff", "bare", "x\\x00y"), strict=True):
        assert name in problem
    paths, problems = io.find_images([album])
    assert names(paths) == ["a.PNG", "b.jpg", "c.webp"]
    assert problems == [f"cannot read {album}/folder.jpg: it is a folder"]


def test_links_that_lead_round_in_circles_are_not_followed(album: Path) -> None:
    for name in ("round", "and round"):
        (album / "sub" / name).symlink_to(album)
    (album / "self.png").symlink_to("self.png")
    assert names(io.find_images([f"{album}/**/*.webp"])[0]) == ["c.webp"]
    assert names(io.find_images([album])[0]) == ["a.PNG", "b.jpg", "self.png", "c.webp"]
    assert "symbolic links" in refusal(album / "self.png")


def test_a_glob_leaves_hidden_files_out_unless_it_names_them(album: Path) -> None:
    assert names(io.find_images([f"{album}/*.png"])[0]) == []
    assert names(io.find_images([f"{album}/.*.png"])[0]) == [".hidden.png"]


ODD_NAMES = [
    b"with space.png",
    b"quo'te\".png",
    b"new\nline.png",
    b"\x1b[31mred.png",
    b"-p.png",
    "猫 🐱.png".encode(),
    b"undecodable \xff\xfe.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_files_of_any_name_are_found_read_named_and_written(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    io.write_image(path, Image.fromarray(CORNERS))
    assert io.find_images([tmp_path]) == ([path], [])
    assert io.find_images([path]) == ([path], [])
    picture = io.read_image(path)
    np.testing.assert_array_equal(picture.pixels, CORNERS)
    assert io.display_name(path).isprintable()
    io.display_name(path).encode("utf-8")
    io.write_json(tmp_path / "result.json", {"file": picture.file})
    again = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert os.fsencode(again["file"]) == name


# Writing ----------------------------------------------------------------------------------------


def test_json_is_readable_utf_8_with_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "result.json"
    io.write_json(path, {"label": "猫", "score": 0.5})
    text = path.read_text("utf-8")
    assert json.loads(text) == {"label": "猫", "score": 0.5}
    assert "猫" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_numbers_is_refused_and_nothing_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(tmp_path / "result.json", {"score": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_images_are_written_in_the_format_of_their_ending(tmp_path: Path, name: str) -> None:
    io.write_image(tmp_path / name, Image.fromarray(CORNERS))
    kind = name.split(".")[1].upper().replace("JPG", "JPEG")
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (40, 24))


def test_written_files_have_the_permissions_of_ordinary_ones(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    io.write_bytes(tmp_path / "ours", b"data")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for name in ("folder", "pipe", "file/below.json", "x" * 300, "null\0"):
        with pytest.raises(io.OutputError) as caught:
            io.write_bytes(tmp_path / name, b"new")
        assert io.display_name(name) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(io.OutputError, match=r"picture\.xyz: use \.png"):
        io.write_image(tmp_path / "picture.xyz", Image.fromarray(CORNERS))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "result.json"
    io.write_bytes(path, b"old")

    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    expected = io.OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        io.write_bytes(path, b"new")
    if isinstance(failure, OSError):
        assert "no space left" in str(caught.value)
        assert "result.json" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


NO_ROOM = """
import resource, sys
from localize import io
io.write_bytes(sys.argv[1], b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    io.write_bytes(sys.argv[1], bytes(1_000_000))
except io.OutputError as error:
    print(error)
"""


def test_a_file_that_there_is_no_room_for_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    command = [sys.executable, "-c", NO_ROOM, str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"cannot write {path}: file too large"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


ENDLESS = """
import sys
from localize import io
for byte in range(256):
    print(byte, flush=True)
    io.write_bytes(sys.argv[1], bytes([byte]) * 3_000_000)
"""


def test_a_process_killed_in_mid_write_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    wait = np.random.default_rng(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(wait.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert data.count(data[:1]) == len(data)
    assert io.find_images([tmp_path])[0] == []


def test_two_processes_writing_the_same_file_leave_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    command = [sys.executable, "-c", ENDLESS.replace("256", "20"), str(path)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert path.read_bytes() == bytes([19]) * 3_000_000
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import os, sys, time
from localize import io
os.fsync = lambda _: (print("writing", flush=True), time.sleep(600))
io.write_bytes(sys.argv[1], b"data")
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    io.write_bytes(tmp_path / "finished", b"data")
    (tmp_path / ".localize-notes.tmp").write_text("mine")
    kept = sorted(tmp_path.iterdir())
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / name)], stdout=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    assert len(list(tmp_path.iterdir())) == len(kept) + 2
    io.remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(kept) + 2
    for number, writer in enumerate(writers, 1):
        writer.kill()
        writer.communicate()
        io.remove_abandoned(tmp_path)
        assert len(list(tmp_path.iterdir())) == len(kept) + 2 - number
    assert sorted(tmp_path.iterdir()) == kept
    io.remove_abandoned(tmp_path / "no such folder")


def test_only_pictures_that_were_written_here_are_known_as_such(tmp_path: Path) -> None:
    io.write_image(tmp_path / "ours.png", Image.fromarray(CORNERS))
    Image.fromarray(CORNERS).save(tmp_path / "theirs.png")
    os.mkfifo(tmp_path / "pipe.png")
    known = [io.is_written_here(tmp_path / f"{name}.png") for name in ("ours", "theirs", "pipe")]
    assert known == [True, False, False]
    assert not io.is_written_here(tmp_path / "missing.png")
