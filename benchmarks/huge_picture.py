"""Memory that `locate` takes for a huge picture, beyond the picture itself.

    python benchmarks/huge_picture.py --model emoji --side 20000 --format png

Writes a picture of side x side pixels to a temporary folder, then locates in it in a process of its
own, and prints that process's memory: before, the decoded picture, and the peak. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from localize import Localizer
from localize.bench import SIZES, make_photo, random_checkpoint
from localize.encoders import HuggingFaceEncoder

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit-b-32", help="as `localize bench` takes it")
    parser.add_argument("--side", type=int, default=20_000, help="pixels; default: %(default)s")
    parser.add_argument("--format", choices=("png", "tiff", "jpeg"), default="png")
    parser.add_argument("--picture", help="locate in this file, in this process")
    parsed = parser.parse_args()
    if parsed.picture:
        measure(parsed.model, parsed.picture)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"huge.{parsed.format}"
        write_picture(path, parsed.side)
        print(f"{parsed.side} x {parsed.side} {parsed.format}, {path.stat().st_size / MIB:.0f} MiB")
        command = [sys.executable, __file__, "--model", parsed.model, "--picture", str(path)]
        subprocess.run(command, check=True)


def write_picture(path: Path, side: int) -> None:
    """One made photo, repeated side by side."""
    tile = make_photo(0)
    rows, columns = -(-side // tile.shape[0]), -(-side // tile.shape[1])
    picture = np.tile(tile, (rows, columns, 1))[:side, :side]
    Image.MAX_IMAGE_PIXELS = None
    Image.fromarray(picture).save(path, **({"compress_level": 1} if path.suffix == ".png" else {}))


def measure(model: str, path: str) -> None:
    """Print the memory and time of one `locate` of a file with the default options."""
    if model in SIZES:
        localizer = Localizer(HuggingFaceEncoder(random_checkpoint(model)))
    else:
        localizer = Localizer.from_pretrained(model)
    localizer.locate(make_photo(1), ["a dog"])
    before = resident()
    start = time.perf_counter()
    result = localizer.locate(path, ["a dog", "a red car", "sky"])
    seconds = time.perf_counter() - start
    decoded = result.pixels.nbytes
    extra = peak() - before - decoded
    print(f"{model}, default scales, three prompts: {seconds:.1f} s")
    print(f"before {before / MIB:.0f} MiB, the decoded picture {decoded / MIB:.0f} MiB")
    print(f"peak {peak() / MIB:.0f} MiB: {extra / MIB:.0f} MiB beyond the picture and before")


def resident() -> int:
    """Bytes this process holds now."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes this process ever held.

    Not getrusage's ru_maxrss: that one is inherited from the process that started this one.
    """
    return _status("VmHWM")


def _status(field: str) -> int:
    """A figure of Linux's /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
