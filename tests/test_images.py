"""Any picture that a user has becomes upright pixels, or a sentence."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import CORNERS, close, encoded, refusal
from PIL import Image, ImageCms

from localize import images, names

# Image files ------------------------------------------------------------------------------------


def test_a_picture_is_writable_contiguous_rgb_and_knows_its_file_name(tmp_path: Path) -> None:
    path = tmp_path / "corners.png"
    Image.fromarray(CORNERS).save(path)
    picture = images.read_image(path)
    assert picture.file == "corners.png"
    assert picture.notes == ()
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable
    np.testing.assert_array_equal(picture.pixels, CORNERS)


def test_path_bytes_image_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(CORNERS).save(path)
    expected = images.read_image(path).pixels
    data = path.read_bytes()
    for source in (str(path), data, bytearray(data), Image.open(path), expected):
        np.testing.assert_array_equal(images.read_image(source).pixels, expected)


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
    pixels = images.read_image(encoded(stored, kind, exif=exif, **options)).pixels
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
        assert images.read_image(data).pixels.shape == CORNERS.shape


def test_transparency_is_put_on_mid_grey() -> None:
    rgba = np.dstack([CORNERS, np.full(CORNERS.shape[:2], 255, np.uint8)])
    rgba[:, :10, 3] = 0
    rgba[:, 30:, 3] = 128
    pixels = images.read_image(encoded(Image.fromarray(rgba), "PNG")).pixels
    assert close(pixels[:, :10], 128)
    assert close(pixels[:, 10:30], CORNERS[:, 10:30], within=0)
    assert close(pixels[:, 30:], CORNERS[:, 30:] * 0.5 + 64)
    np.testing.assert_array_equal(images.read_image(rgba).pixels, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_is_put_on_mid_grey(mode: str, kind: str) -> None:
    image = Image.fromarray((CORNERS // 128 * 255).astype(np.uint8)).convert(mode)
    if kind == "GIF" and mode in ("1", "RGB"):
        image = image.convert("P")
    corner = image.getpixel((0, 0))
    pixels = images.read_image(encoded(image, kind, transparency=corner)).pixels
    assert close(pixels[0, 0], 128)
    assert not close(pixels[23, 39], 128)


def test_a_palette_with_half_transparent_colours_is_put_on_mid_grey() -> None:
    image = Image.fromarray(CORNERS).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    opaque = np.asarray(image.convert("RGB"), int)
    data = encoded(image, "PNG", transparency=bytes([0, 128, 255, 255]))
    alpha = np.array([0, 128, 255, 255])[np.asarray(image)][..., None] / 255
    assert close(images.read_image(data).pixels, opaque * alpha + 128 * (1 - alpha))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_every_mode_shows_the_same_picture(mode: str) -> None:
    blocks = np.where(CORNERS[..., :1] > 128, 255, 0).astype(np.uint8).repeat(3, axis=2)
    image = Image.fromarray(blocks).convert(mode)
    assert close(images.read_image(image).pixels, blocks)
    if mode in ("CMYK", "LAB", "YCbCr", "RGBX"):
        assert close(images.read_image(encoded(image, "TIFF")).pixels, blocks)
    if mode == "CMYK":
        assert close(
            images.read_image(encoded(image, "JPEG", quality=100)).pixels, blocks, within=9
        )


RAMP = np.linspace(0, 1, 256).reshape(8, 32)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_to_8_bits(kind: str) -> None:
    image = Image.fromarray(np.round(RAMP * 65535).astype(np.uint16))
    pixels = images.read_image(encoded(image, kind)).pixels
    assert close(pixels, np.round(RAMP * 255)[..., None], within=0)


def test_a_dark_16_bit_picture_stays_dark() -> None:
    image = Image.fromarray(np.round(RAMP * 255).astype(np.uint16))
    assert images.read_image(encoded(image, "PNG")).pixels.max() == 1


@pytest.mark.parametrize(
    ("values", "noted"),
    [(RAMP, False), (RAMP * 255, False), (RAMP * 9000 - 77, True), (RAMP * 1e-3 + 700, True)],
)
def test_float_grey_is_scaled_by_its_range(values: np.ndarray, noted: bool) -> None:
    picture = images.read_image(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"))
    assert close(picture.pixels, np.round(RAMP * 255)[..., None], within=18 if noted else 0)
    assert any("stretched" in note for note in picture.notes) == noted


def test_32_bit_grey_is_scaled_by_its_range() -> None:
    for top in (255, 65535, 2_000_000_000):
        image = Image.fromarray(np.round(RAMP * top).astype(np.int32))
        assert close(
            images.read_image(encoded(image, "TIFF")).pixels, np.round(RAMP * 255)[..., None]
        )


def test_nan_and_infinite_grey_become_black_and_white() -> None:
    values = np.array([[0, 1, np.nan, np.inf, -np.inf]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = images.read_image(Image.fromarray(values)).pixels
        nothing = images.read_image(Image.fromarray(values * np.nan)).pixels
    assert pixels[0, :, 0].tolist() == [0, 255, 0, 255, 0]
    assert not nothing.any()


def test_a_colour_profile_is_converted_to_srgb() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(CORNERS)
    same = images.read_image(encoded(image, "PNG", icc_profile=srgb))
    np.testing.assert_array_equal(same.pixels, CORNERS)
    assert same.notes == ()
    misfit = images.read_image(encoded(image, "PNG", icc_profile=lab))
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
    red, _, blue = images.read_image(data).pixels[8, 8].tolist()
    assert blue > 200
    assert red < 60


def test_a_damaged_colour_profile_is_left_out_and_noted() -> None:
    for profile in (b"no profile", bytes(200), swapped_profile()[:150]):
        picture = images.read_image(encoded(Image.fromarray(CORNERS), "PNG", icc_profile=profile))
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
    picture = images.read_image(data)
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
        assert close(images.read_image(data).pixels[10, 10], CORNERS[2, 2], within=12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3, 20000), (5000, 1)])
def test_pictures_of_odd_shapes_are_read(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(
        images.read_image(encoded(Image.fromarray(pixels), "PNG")).pixels, pixels
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
        assert names.display_name(name) in message


FORBIDDEN = """
import os, sys
from localize import files, images
if os.geteuid() == 0:  # root may do anything, nobody may not
    os.setuid(65534)
reading, writing = (images.read_image, sys.argv[1]), (files.write_bytes, sys.argv[2], b"data")
for act, *given in (reading, writing):
    try:
        act(*given)
    except (images.ImageError, files.OutputError) as error:
        print(error)
print(*files.find_images([sys.argv[3]], images.SUFFIXES))
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
    np.testing.assert_array_equal(images.read_image(path).pixels, CORNERS)


def test_postscript_and_pdf_are_never_handed_to_another_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    for kind in ("EPS", "PDF"):
        assert "not read here" in refusal(encoded(Image.fromarray(CORNERS), kind))


BOMB = """
import resource, sys
from localize import files, images
resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                                        + 2**31, resource.RLIM_INFINITY))
try:
    images.read_image(sys.stdin.buffer.read())
except images.ImageError as error:
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
    assert images.read_image(data, max_pixels=960).pixels.shape == CORNERS.shape
    assert "limit of 959" in refusal(Image.open(BytesIO(data)), max_pixels=959)


def icon(side: int) -> bytes:
    """An ICO file that says it holds 16 x 16 pixels and holds a larger PNG file."""
    inside = encoded(Image.new("1", (side, side)), "PNG")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    return b"\0\0\1\0\1\0" + entry + inside


def test_an_icon_with_a_larger_picture_than_it_says_is_held_to_the_limit() -> None:
    assert "more than the limit" in refusal(icon(200), max_pixels=30_000)
    assert images.read_image(icon(200), max_pixels=40_000).pixels.shape == (200, 200, 3)


def test_the_limit_holds_for_formats_that_pillow_limits_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strip = encoded(Image.new("L", (300, 200)), "TIFF", strip_size=10**9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    assert images.read_image(strip).pixels.shape == (200, 300, 3)
    assert "more than the limit" in refusal(strip, max_pixels=50_000)
    assert Image.MAX_IMAGE_PIXELS == 1_000


def test_reading_leaves_pillows_own_limit_and_the_warning_filters_alone() -> None:
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    images.read_image(encoded(Image.fromarray(CORNERS), "PNG"))
    refusal(b"nothing")
    assert limit == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters


def test_threads_read_at_the_same_time_and_get_the_right_pictures() -> None:
    sources = [
        encoded(Image.fromarray(np.roll(CORNERS, shift, 1)), kind)
        for shift in range(6)
        for kind in ("PNG", "TIFF", "GIF", "BMP")
    ]
    expected = [images.read_image(source).pixels for source in sources]
    wrong: list[int] = []

    def read(start: int) -> None:
        for index in np.roll(np.arange(len(sources)), start):
            if not np.array_equal(images.read_image(sources[index]).pixels, expected[index]):
                wrong.append(int(index))

    threads = [threading.Thread(target=read, args=(3 * start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reading_ahead_keeps_the_order_and_goes_on_after_what_cannot_be_read() -> None:
    good = [encoded(Image.new("RGB", (4, 4), (shade,) * 3), "PNG") for shade in range(60)]
    sources: list[images.ImageSource] = [*good[:30], b"no picture", *good[30:]]
    given = list(images.read_ahead(sources))
    assert [source for source, _ in given] == sources
    shades = [
        picture.pixels[0, 0, 0] if isinstance(picture, images.Picture) else None
        for _, picture in given
    ]
    assert shades == [*range(30), None, *range(30, 60)]
    assert isinstance(given[30][1], images.ImageError)


def test_reading_ahead_takes_no_more_than_a_few_pictures_that_nobody_asked_for() -> None:
    data = encoded(Image.fromarray(CORNERS), "PNG")
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield data

    pictures = images.read_ahead(endless())
    for _ in range(5):
        next(pictures)
    pictures.close()
    assert len(taken) <= 5 + 2 * images.READERS


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
    np.testing.assert_array_equal(images.read_image(array).pixels, CORNERS)


def test_half_precision_arrays_are_accepted() -> None:
    tensor = torch.from_numpy(CORNERS).permute(2, 0, 1).float() / 255
    assert close(images.read_image(tensor.half()).pixels, CORNERS, within=1)
    assert close(images.read_image(tensor.bfloat16()).pixels, CORNERS, within=1)


def test_grey_and_bool_arrays_are_accepted() -> None:
    grey = CORNERS[..., 0]
    expected = np.stack([grey] * 3, axis=2)
    for array in (grey, grey[..., None], grey[None]):
        np.testing.assert_array_equal(images.read_image(array).pixels, expected)
    mask = grey > 128
    np.testing.assert_array_equal(images.read_image(mask).pixels[..., 0], mask * 255)


def test_arrays_that_fit_both_orders_are_read_as_is_usual() -> None:
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    np.testing.assert_array_equal(images.read_image(array).pixels, array)
    tensor = torch.from_numpy(array)
    np.testing.assert_array_equal(images.read_image(tensor).pixels, array.transpose(1, 2, 0))


def test_a_picture_does_not_change_with_the_array_it_came_from() -> None:
    array = CORNERS.copy()
    picture = images.read_image(array)
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
        images.read_image(array)


@pytest.mark.parametrize(
    "source", [None, 3, [[1, 2]], np.zeros((4, 4), complex), np.full((4, 4), "x"), object()]
)
def test_what_is_no_image_is_a_type_error_that_says_what_is(source: object) -> None:
    with pytest.raises(TypeError, match="must be"):
        images.read_image(source)  # type: ignore[arg-type]


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
        images.read_image(tensor)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"%PDF-1.7", "a PDF"),
        (b"<svg xmlns=", "an SVG drawing"),
        (b"\0\0\0\x20ftypisom", "a video"),
        (b"\xff\x0a", "a JPEG XL picture"),
    ],
)
def test_a_whole_file_of_another_kind_is_told_from_a_damaged_picture(start, kind):
    with pytest.raises(images.ImageError, match=f"it is {kind}.*not read here"):
        images.read_image(start + bytes(100))
    with pytest.raises(images.ImageError, match="damaged"):
        images.read_image(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(images.ImageError, match="not a picture, or damaged"):
        images.read_image(bytes(100))
