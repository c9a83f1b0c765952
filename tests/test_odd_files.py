"""Several hundred broken and odd picture files, made here: each gives a picture or one sentence."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from localize import images

SEED = 20240229
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB")
NOT_READ = {"EPS", "PDF", "PALM", "WMF", "GRIB", "BUFR", "HDF5", "IM"}
"""Formats that Pillow writes and that are not pictures here: see SECURITY.md."""

TIFF_CODECS = ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")


def _saved(image: Image.Image, kind: str, **options: object) -> bytes | None:
    data = BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            image.save(data, kind, **options)
    except Exception:  # Not every format has every mode, and some have no encoder on this machine.
        return None
    return data.getvalue()


@cache
def whole_files() -> dict[tuple[str, str], bytes]:
    """A small picture in every format and mode that Pillow writes, by both."""
    Image.init()
    blocks = np.random.default_rng(SEED).integers(0, 255, (5, 6, 3), np.uint8)
    image = Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))
    values = np.asarray(image.convert("L")).astype(np.uint16) * 257
    values[:, :8] = 0  # Something is left to see where a format has but 8 bits and cuts the rest.
    deep = Image.fromarray(values)
    files: dict[tuple[str, str], bytes | None] = {}
    for kind in sorted(Image.SAVE):
        for mode in MODES:
            source = deep if mode.startswith(("I", "F")) else image
            files[kind, mode] = _saved(source.convert(mode), kind)
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        more = [image.rotate(90 * turns) for turns in (1, 2)]
        files[kind, "frames"] = _saved(image, kind, save_all=True, append_images=more)
    for codec in TIFF_CODECS:
        files["TIFF", codec] = _saved(image, "TIFF", compression=codec)
    files["JPEG", "progressive"] = _saved(image, "JPEG", progressive=True)
    files["WEBP", "lossless"] = _saved(image, "WEBP", lossless=True)
    return {name: data for name, data in files.items() if data is not None}


def broken_files() -> list[tuple[str, bytes]]:
    """Every whole file cut and flipped at random, the same on every run, with a name for each."""
    chance = random.Random(SEED)
    found = []
    for (kind, mode), whole in whole_files().items():
        for part in range(6):
            data = bytearray(whole)
            if part % 3 == 0:
                del data[chance.randrange(len(data)) :]
            if part % 3 > 0 and data:
                # Headers are where damage does most.
                reach = len(data) if part % 3 == 1 else min(len(data), 200)
                for _ in range(chance.choice((1, 2, 5, 20))):
                    data[chance.randrange(reach)] = chance.randrange(256)
            found.append((f"{kind.lower()}-{mode.replace(';', '')}-{part}.{kind.lower()}", data))
    noise = [(f"noise-{size}.jpg", chance.randbytes(size)) for size in (1, 2, 7, 16, 100, 5000)]
    return [(name, bytes(data)) for name, data in found + noise]


def test_the_corpus_has_several_hundred_files_of_every_format_that_pillow_writes() -> None:
    kinds = {kind for kind, _ in whole_files()}
    assert len(broken_files()) > 600
    assert kinds >= {"JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "TGA", "PPM", "JPEG2000"}
    assert ("AVIF" in kinds) == features.check("avif")


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in whole_files()}))
def test_every_format_that_pillow_reads_and_writes_is_read(kind: str) -> None:
    for (other, mode), data in whole_files().items():
        if other != kind:
            continue
        if kind in NOT_READ:
            with pytest.raises(images.ImageError, match=r"not a picture|not read here"):
                images.read_image(data)
        else:
            pixels = images.read_image(data).pixels
            assert pixels.shape[2] == 3, mode
            assert pixels.std() > 10, mode


def pixels_or_sentence(path: Path) -> tuple[np.ndarray | None, str]:
    try:
        return images.read_image(path, max_pixels=5_000_000).pixels, ""
    except images.ImageError as error:
        return None, str(error)


def test_a_broken_file_gives_a_picture_or_one_sentence_that_names_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, data in broken_files():
            path = tmp_path / name
            path.write_bytes(data)
            pixels, sentence = pixels_or_sentence(path)
            if pixels is None:
                refused += 1
                assert name in sentence
                assert sentence.isprintable()  # Which a line break is not.
            else:
                assert pixels.dtype == np.uint8
                assert pixels.ndim == 3
                assert pixels.shape[2] == 3
                assert pixels.size > 0
    assert refused > 200
    assert capfd.readouterr() == ("", "")


READ_ALL = """
import resource, sys
from pathlib import Path
from localize import files, images
room = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**30
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
paths, problems = files.find_images(sys.argv[1:], images.SUFFIXES)
assert not problems
for path in paths:
    try:
        images.read_image(path)
    except images.ImageError as error:
        assert path.name in str(error)
print(len(paths))
"""


def test_no_broken_file_takes_much_memory_or_ends_the_process(tmp_path: Path) -> None:
    names = set()
    for name, data in broken_files():
        if Path(name).suffix in images.SUFFIXES:
            (tmp_path / name).write_bytes(data)
            names.add(name)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert int(done.stdout) == len(names)
