"""What a run costs beside encoding alone, and whether its memory grows with the number of pictures.

    python benchmarks/run_speed.py --model vit-b-32 --data photos
    python benchmarks/run_speed.py --model emoji
    python benchmarks/run_speed.py --model emoji --memory 200 2000

Speed: `localize detect` with JSON, overlays and two exports of so many pictures, in turns with
loading the same model and encoding the same files, in one process. A ratio is the median of the
rounds' ratios: 1 is as quick as encoding alone. Beside the wall time stands the CPU time of all
threads, which a busy machine moves less, and in which nothing is hidden by being done beside
something else: with OMP_NUM_THREADS=1 it is what a single core would take.

Memory: the peak of a `localize detect` over so many small pictures, three crops of each, with
overlays, report and two exports, each run in a process of its own.

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
from collections.abc import Callable, Sequence
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
    words = ["-p", *prompts, "--model", model, "--quiet", "--export", *EXPORTS, "-o"]
    localize(["detect", str(pictures[0]), *words, str(folder / "warm-up")])  # Texts are embedded.
    encode, detect = [], []
    for number in range(rounds):
        output = folder / f"out-{number}"
        encode.append(seconds(lambda: encode_all(model, pictures)))
        command = ["detect", *map(str, pictures), *words, str(output)]
        detect.append(seconds(lambda command=command: localize(command)))
        shutil.rmtree(output)
        print(f"encode {encode[-1]} s, detect {detect[-1]} s", flush=True)
    for kind, each in enumerate(("wall", "CPU")):
        pairs = [(alone[kind], run[kind]) for alone, run in zip(encode, detect, strict=True)]
        ratio = statistics.median(alone / run for alone, run in pairs)
        more = 1000 * statistics.median(run - alone for alone, run in pairs) / len(pictures)
        print(f"{each} time: {ratio:.2f} of the speed of encoding, {more:.0f} ms a picture more")


def encode_all(model: str, pictures: Sequence[Path]) -> None:
    for _ in Localizer.from_pretrained(model).encode_many(pictures):
        pass


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall time and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return round(time.perf_counter() - wall, 2), round(time.process_time() - cpu, 2)


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
        words += [
            "--budget",
            "3",
            "--quiet",
            "--export",
            *EXPORTS,
            "-o",
            str(folder / "out" / f"{count}"),
        ]
        peaks.append(peak_of(words))
        print(f"{count:,} pictures: {peaks[-1] / 1e6:,.0f} MB at most", flush=True)
    print(f"{peaks[1] / peaks[0]:.3f} times")


PEAK = "import resource, sys; from localize.cli import main; code = main(); "
PEAK += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"


def peak_of(words: Sequence[str]) -> int:
    """The largest memory, in bytes, of a process that runs a command."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words], check=True, capture_output=True, text=True
    )
    return 1024 * int(done.stdout)


if __name__ == "__main__":
    main()
