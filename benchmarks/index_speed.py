"""What does keeping pictures in a store cost beside encoding them, and what does running it again?

    python benchmarks/index_speed.py --model vit-b-32

Lots of JPEG files are encoded as `localize bench` does ("files on disk"), and put into a new store,
in turns. Told is the median of the ratios of their speeds, by the clock and by the processor's time
(which other work on the machine sways less), and how many pictures a second a run passes that finds
them unchanged, without a crop encoded.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from localize import Localizer
from localize.bench import checkpoint_of, photos_for
from localize.encoders import HuggingFaceEncoder
from localize.index import Store, settings_of, update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji", help="as in localize bench")
    parser.add_argument("--lots", type=int, default=5)
    parser.add_argument("--photos", type=int, default=40, help="in each lot")
    parsed = parser.parse_args()
    localizer = Localizer(HuggingFaceEncoder(checkpoint_of(parsed.model, False)))
    encoding, storing, again = [], [], []
    with tempfile.TemporaryDirectory() as name:
        files = photos_for(None, Path(name), parsed.lots * parsed.photos)
        localizer.encode(files[0])
        for lot in range(parsed.lots):
            some = files[lot * parsed.photos : (lot + 1) * parsed.photos]
            store = Path(name) / f"store-{lot}"
            encoding.append(timed(lambda some=some: list(map(id, localizer.encode_many(some)))))
            storing.append(timed(lambda store=store, some=some: run(store, some, localizer)))
            again.append(timed(lambda store=store, some=some: run(store, some, localizer)))
    for number, clock in enumerate(("clock", "processor")):
        speeds = [parsed.photos / each[number] for each in storing]
        ratios = [one[number] / other[number] for one, other in zip(encoding, storing, strict=True)]
        unchanged = [parsed.photos / each[number] for each in again]
        print(
            f"by the {clock}: index {statistics.median(speeds):.2f} photos a second, "
            f"{statistics.median(ratios):.3f} of encoding alone ({min(ratios):.3f} to "
            f"{max(ratios):.3f}); unchanged {statistics.median(unchanged):,.0f} a second"
        )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def run(store: Path, files: list[Path], localizer: Localizer) -> None:
    made = Store.create(store, settings_of(localizer))
    for _ in update(made, files, localizer):
        pass


if __name__ == "__main__":
    main()
