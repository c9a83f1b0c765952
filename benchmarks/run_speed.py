"""What a run costs beside encoding alone, and whether its memory grows with the number of pictures.

    python benchmarks/run_speed.py --model vit-b-32 --data photos
    python benchmarks/run_speed.py --model emoji
    python benchmarks/run_speed.py --model emoji --memory 200 2000

Speed: `localize detect` with JSON, overlays and two exports of so many pictures, in turns with
loading the same model and encoding the same files, in one process. The last line is the median of
the rounds' ratios: 1 is as quick as encoding alone. Memory: the peak of a `localize detect` over so
many small pictures, each in a process of its own.

--model is a hub id, a folder, `emoji`, or a size of `localize bench`, whose random weights are then
saved for the time of the run. Without --data pictures are scenes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from localize.bench import SIZES, random_checkpoint
from localize.cli import main as localize
from localize.evaluation.scenes import make_scene
from localize.localizer import Localizer

PROMPTS = ("a cat", "a dog", "a tree", "a car", "a person")
EXPORTS = ("coco", "yolo")
SEED = 70_000
SMALL = (160, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", help="a folder of pictures, each used as often as needed")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--memory", nargs=2, type=int, metavar="PICTURES")
    parsed = parser.parse_args()
    with TemporaryDirectory() as folder:
        model = saved(parsed.model, Path(folder, "model"))
        if parsed.memory:
            memory(Path(folder), model, parsed.prompts, *parsed.memory)
        else:
            pictures = copies(Path(folder, "pictures"), parsed.data, parsed.pictures)
            speed(pictures, model, parsed.prompts, parsed.rounds)


def saved(model: str, folder: Path) -> str:
    """The model, or the folder that the random weights of a size are saved in."""
    if model not in SIZES:
        return model
    checkpoint = random_checkpoint(model)
    for part in (checkpoint.model, checkpoint.tokenizer, checkpoint.image_processor):
        part.save_pretrained(folder)
    return str(folder)


def copies(folder: Path, data: str | None, count: int) -> list[Path]:
    """So many pictures under names of their own: of a folder, or scenes."""
    folder.mkdir()
    found = sorted(Path(data).rglob("*.jpg")) if data else []
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    for number, (path, source) in enumerate(
        zip(paths, islice(cycle(found or [None]), count), strict=True)
    ):
        if source:
            shutil.copy(source, path)
        else:
            Image.fromarray(make_scene(SEED + number).image).save(path, quality=92)
    return paths


def speed(pictures: Sequence[Path], model: str, prompts: Sequence[str], rounds: int) -> None:
    folder = pictures[0].parent
    words = ["detect", "-p", *prompts, "--model", model, "--quiet", "--export", *EXPORTS]
    warm_up = [*words, "-o", str(folder / "warm-up")]  # Texts are embedded, code is loaded.
    localize(["detect", str(pictures[0]), *warm_up[1:]])
    ratios, seconds = [], []
    for number in range(rounds):
        start = time.perf_counter()
        localizer = Localizer.from_pretrained(model)
        for _ in localizer.encode_many(pictures):
            pass
        middle = time.perf_counter()
        output = folder / f"out-{number}"
        localize(["detect", *map(str, pictures), *words[1:], "-o", str(output)])
        alone, run = middle - start, time.perf_counter() - middle
        ratios.append(alone / run)
        seconds.append((alone, run))
        written = sum(path.stat().st_size for path in output.rglob("*.*") if path.is_file())
        print(
            f"encode {alone:.1f} s, detect {run:.1f} s, {written / 1e6:.0f} MB written", flush=True
        )
        shutil.rmtree(output)
    encode, detect = (statistics.median(times) for times in zip(*seconds, strict=True))
    each = 1000 * (detect - encode) / len(pictures)
    print(f"{len(pictures)} pictures: {statistics.median(ratios):.2f} of the speed of encoding")
    print(f"encode {encode:.1f} s, detect {detect:.1f} s: {each:.0f} ms a picture more")


def memory(folder: Path, model: str, prompts: Sequence[str], few: int, many: int) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    scenes = [
        Image.fromarray(make_scene(SEED + number).image).resize(SMALL) for number in range(50)
    ]
    for number, scene in enumerate(islice(cycle(scenes), many)):
        scene.save(pictures / f"{number:05}.jpg")
    paths = sorted(pictures.iterdir())
    peaks = []
    for count in (few, many):
        (folder / f"{count}").mkdir()
        for path in paths[:count]:
            os.link(path, folder / f"{count}" / path.name)
        words = ["detect", str(folder / f"{count}"), "-p", *prompts, "--model", model, "--report"]
        words += ["--quiet", "--export", *EXPORTS, "-o", str(folder / "out" / f"{count}")]
        peaks.append(peak_of(words))
        print(f"{count:,} pictures: {peaks[-1] / 1e6:,.0f} MB at most", flush=True)
    print(f"{peaks[1] / peaks[0]:.3f} times")


PEAK = "import resource, sys; from localize.cli import main; code = main(sys.argv[1:]); "
PEAK += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"


def peak_of(words: Sequence[str]) -> int:
    """The largest memory, in bytes, of a process that runs a command."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words], check=True, capture_output=True, text=True
    )
    return 1024 * int(done.stdout)


if __name__ == "__main__":
    main()
