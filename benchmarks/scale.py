"""What a run on Ray costs beside one without, and what becomes of it with a million times as much.

    python benchmarks/scale.py workers [--few 16] [--many 80]     without Ray, with 1 and 2 workers
    python benchmarks/scale.py parts                              a photo and a row, part by part
    python benchmarks/scale.py rows [--rows 10000000] [--into store]    all but the encoder, in bulk
    python benchmarks/scale.py paper --measured FILE              hours, euros and gigabytes

The first three print a line of JSON each, which FILE holds; the last a table. Needs the extras
`ray` and `index`, and Linux for the times and memory of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from localize.evaluation.scenes import make_scene

PROMPTS = ("a cat", "a dog", "a bicycle", "an apple")
DIMENSIONS, WINDOWS = 512, 60
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    workers = commands.add_parser("workers")
    workers.add_argument("--few", type=int, default=16)
    workers.add_argument("--many", type=int, default=80)
    workers.set_defaults(run=lambda parsed: measure_workers(parsed.few, parsed.many))
    commands.add_parser("parts").set_defaults(run=lambda parsed: measure_parts())
    rows = commands.add_parser("rows")
    rows.add_argument("--rows", type=int, default=10_000_000)
    rows.add_argument("--into", choices=["store", "parquet"], default="store")
    rows.add_argument("--folder", default=tempfile.gettempdir())
    rows.set_defaults(run=lambda parsed: measure_rows(parsed.rows, parsed.into, parsed.folder))
    paper = commands.add_parser("paper")
    paper.add_argument("--measured", required=True)
    paper.set_defaults(run=lambda parsed: on_paper(parsed.measured))
    parsed = parser.parse_args()
    facts = parsed.run(parsed)
    if facts is not None:
        print(json.dumps({"command": sys.argv[1], **facts}))


# Processes --------------------------------------------------------------------------------------


class Watch:
    """The seconds of processors and the bytes of memory of a process and all below it, by kind."""

    def __init__(self, process: int, every: float = 0.1):
        self.process, self.every = process, every
        self.seconds: dict[int, float] = {}
        self.kinds: dict[int, str] = {process: "driver"}
        self.memory: dict[str, list[int]] = defaultdict(list)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(self.every):
            memory: dict[str, int] = defaultdict(int)
            for each in (self.process, *descendants(self.process)):
                try:
                    stat = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
                    statm = Path(f"/proc/{each}/statm").read_text().split()
                except OSError:
                    continue
                if each != self.process and (kind := kind_of(each)) is not None:
                    self.kinds[each] = kind
                kind = self.kinds.get(each, "readers")
                self.seconds[each] = (int(stat[11]) + int(stat[12])) / TICKS
                # What is shared is the object store's.
                memory[kind] += (int(statm[1]) - int(statm[2])) * PAGE
            for kind, size in memory.items():
                self.memory[kind].append(size)

    def by_kind(self) -> dict[str, float]:
        total: dict[str, float] = defaultdict(float)
        for each, seconds in self.seconds.items():
            total[self.kinds.get(each, "readers")] += seconds
        return {kind: round(seconds, 2) for kind, seconds in sorted(total.items())}


def descendants(process: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = status.read_text().split(" ", 1)
        except OSError:
            continue
        children.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(pid))
    found = list(children.get(process, []))
    for each in found:  # grows while it is read
        found.extend(children.get(each, []))
    return found


def kind_of(process: int) -> str | None:
    """None: what is not known yet, or not any more."""
    try:
        title = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return None
    if not title or title.startswith("ray::IDLE"):
        return None
    if "MapWorker" in title:
        return "workers"
    if title.startswith(("ray::_map_task", "ray::Map", "ray::Write")):
        return "readers"
    return "Ray"


# A run, without Ray and with --------------------------------------------------------------------


def measure_workers(few: int, many: int) -> dict[str, Any]:
    """Seconds a picture from the difference of a long and a short run, so that starting is out."""
    ways = {"without Ray": [], "1 worker": ["--ray", "--ray-workers", "1"]}
    ways["2 workers"] = ["--ray", "--ray-workers", "2"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (few, many):
            (folder / str(count)).mkdir()
            for seed in range(count):
                scene = Image.fromarray(make_scene(seed, (640, 480)).image)
                scene.save(folder / str(count) / f"{seed:04}.png")
        found: dict[str, Any] = {}
        for way, words in ways.items():
            runs = [timed_run(folder / str(count), words) for count in (few, many)]
            (short, short_seconds), (long, long_seconds) = runs
            kinds = {
                kind: round((seconds - short.get(kind, 0)) / (many - few), 4)
                for kind, seconds in long.items()
            }
            found[way] = {
                "seconds_a_picture": round((long_seconds - short_seconds) / (many - few), 4),
                "processor_seconds_a_picture": round(sum(kinds.values()), 4),
                "of_which": kinds,
                "seconds_to_start": round(
                    short_seconds - few * (long_seconds - short_seconds) / (many - few), 1
                ),
            }
    base, one = found["without Ray"], found["1 worker"]
    for name in ("seconds", "processor_seconds"):
        ratio = one[f"{name}_a_picture"] / base[f"{name}_a_picture"]
        found[f"overhead_in_{name}_percent"] = round(100 * (ratio - 1), 1)
    return {"pictures": [few, many], "cores": len(os.sched_getaffinity(0)), **found}


def timed_run(scenes: Path, words: list[str]) -> tuple[dict[str, float], float]:
    """Seconds of processors by kind, and of the clock."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "localize", "detect", str(scenes), "--quiet", "-o", output]
        command += ["--model", "emoji", *words, "--prompt", *PROMPTS]
        start = time.monotonic()
        process = subprocess.Popen(command)
        with Watch(process.pid) as watch:
            assert process.wait() == 0
        return watch.by_kind(), time.monotonic() - start


# Parts ------------------------------------------------------------------------------------------


def measure_parts() -> dict[str, Any]:
    """What a picture costs each part that is not the encoder."""
    from localize.images import read_image

    photo = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC).save(
        photo, "jpeg", quality=90
    )
    start = time.process_time()
    for _ in range(5):
        read_image(photo.getvalue())
    reading = (time.process_time() - start) / 5
    return {
        "photo_of_12_megapixels": {"bytes": len(photo.getvalue()), "seconds": round(reading, 3)},
        "bytes_of_a_task": listing(),
        **locating(),
        **passing(),
    }


def listing(count: int = 100_000) -> int:
    """What the command remembers of a picture that is to be done."""
    from localize.runs import Task

    tracemalloc.start()
    tasks = []
    for number in range(count):
        path = f"/data/photos/2026/11/{number:09}.jpg"
        seen = {"path": path, "bytes": 3_000_000 + number, "modified_ns": 10**18 + number}
        tasks.append(Task(Path(path), Path(f"/data/answers/{number:09}.jpg"), seen))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size // len(tasks)


def locating() -> dict[str, Any]:
    """What follows the encoder: maps and boxes of four prompts, and the files."""
    from localize import Localizer
    from localize.files import image_bytes, json_bytes

    localizer = Localizer.from_pretrained("emoji")
    encoded = list(localizer.encode_many(make_scene(seed, (640, 480)).image for seed in range(8)))
    localizer.locate(encoded[0], PROMPTS)
    start = time.process_time()
    results = [localizer.locate(each, PROMPTS) for each in encoded]
    middle = time.process_time()
    overlays = [image_bytes(result.boxes_overlay()) for result in results]
    end = time.process_time()
    files = sum(map(len, overlays)) + sum(len(json_bytes(result.to_dict())) for result in results)
    return {
        "maps_and_boxes": round((middle - start) / len(encoded), 4),
        "overlay": round((end - middle) / len(encoded), 4),
        "bytes_of_answers": round(files / len(encoded)),
    }


def passing() -> dict[str, Any]:
    """What Ray's own parts take: the ledger, and a row that passes through the driver."""
    import ray
    import ray.data

    from localize.cluster import connected
    from localize.cluster.jobs import prepare
    from localize.cluster.ledger import start_ledger

    with connected("local"):
        prepare()
        ledger = start_ledger()
        names = [[f"{call} {number}" for number in range(8)] for call in range(1000)]
        ray.get(ledger.begin.remote(["warm"]))
        start = time.monotonic()
        for each in names:
            ray.get(ledger.begin.remote(each))
            ledger.done.remote(each)
        calls = (time.monotonic() - start) / len(names)
        rows = 200_000
        dataset = ray.data.range(rows, override_num_blocks=rows // 64).map_batches(
            answered, batch_format="pyarrow", batch_size=None, num_cpus=0.5
        )
        first = next(iter(dataset.iter_rows()))
        before, start = time.process_time(), time.monotonic()
        assert sum(1 for _ in dataset.iter_rows()) == rows
        return {
            "ledger_seconds_a_batch": round(calls, 6),
            "driver_processor_seconds_a_row": round((time.process_time() - before) / rows, 7),
            "driver_seconds_a_row": round((time.monotonic() - start) / rows, 7),
            "row": sorted(first),
        }


def answered(table: Any) -> Any:
    """Rows as `locate` gives them."""
    import pyarrow as pa

    box = {"label": "a cat", "score": 0.5, "xmin": 0.0, "ymin": 0.0, "xmax": 9.0, "ymax": 9.0}
    count = len(table)
    return pa.table(
        {
            "path": [f"s3://bucket/photos/{number}.jpg" for number in table["id"].to_pylist()],
            "width": pa.array([4000] * count, pa.int32()),
            "height": pa.array([3000] * count, pa.int32()),
            "presence": pa.array([[0.5] * 4] * count, pa.list_(pa.float32())),
            "boxes": [[box] * 2] * count,
            "problem": pa.array([None] * count, pa.string()),
        }
    )


# Rows in bulk -----------------------------------------------------------------------------------


def measure_rows(rows: int, into: str, folder: str) -> dict[str, Any]:
    """Fake results of the right size, through all that is not the encoder."""
    with tempfile.TemporaryDirectory(dir=folder) as name, Watch(os.getpid(), 1.0) as watch:
        start = time.monotonic()
        before = time.process_time()
        facts = (into_store if into == "store" else into_parquet)(rows, Path(name))
        seconds, processor = time.monotonic() - start, time.process_time() - before
        written = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
    driver = watch.memory["driver"]
    quarters = [max(part) for part in np.array_split(driver, 4)]
    return {
        "rows": rows,
        "into": into,
        **facts,
        "seconds": round(seconds, 1),
        "driver_processor_seconds": round(processor, 1),
        "gigabytes_written": round(written / 1e9, 2),
        "driver_gigabytes": round(max(driver) / 1e9, 3),
        "driver_gigabytes_by_quarter": [round(each / 1e9, 3) for each in quarters],
        "other_processes_gigabytes": {
            kind: round(max(sizes) / 1e9, 3)
            for kind, sizes in watch.memory.items()
            if kind != "driver"
        },
    }


def into_parquet(rows: int, folder: Path) -> dict[str, Any]:
    """Rows as `encode` gives them, one window each, by the tasks into Parquet files."""
    import ray.data

    from localize.cluster import connected
    from localize.cluster.jobs import prepare

    with connected("local"):
        prepare()
        dataset = ray.data.range(rows, override_num_blocks=max(2, rows // 20_000)).map_batches(
            one_window, batch_format="pyarrow", batch_size=2_000, num_cpus=0.5
        )
        dataset.write_parquet(str(folder), num_rows_per_file=None)
    return {"files": len(list(folder.glob("*.parquet")))}


def one_window(table: Any) -> Any:
    import pyarrow as pa

    count = len(table)
    vectors = np.random.default_rng(0).standard_normal((count, DIMENSIONS), np.float32)
    flat = pa.array(vectors.astype(np.float16).ravel())
    embeddings = pa.FixedSizeListArray.from_arrays(flat, DIMENSIONS)
    return pa.table({"path": [f"{each}.jpg" for each in table["id"].to_pylist()], "e": embeddings})


def into_store(rows: int, folder: Path) -> dict[str, Any]:
    """Windows of pictures of `WINDOWS` each, as the driver of `cluster.update` takes them."""
    import ray.data

    from localize.cluster import connected
    from localize.cluster.jobs import prepare
    from localize.cluster.store import hand_in
    from localize.index import Store
    from localize.index.store import Settings
    from localize.index.updates import File, Updating

    class Simulated(Updating):
        """Files that are not there are as they were."""

        def _seen(self, path: str) -> File:
            return file_of(int(path.rpartition("/")[2]))

    pictures = rows // WINDOWS
    settings = Settings("fake", "fake", DIMENSIONS, "fake", (1.0,), 1.0, None)
    store = Store.create(folder / "store", settings)
    told: list[float] = []
    with connected("local"), store.writing():
        prepare()
        run = Simulated(store)
        encoded = ray.data.range(pictures, override_num_blocks=max(2, pictures // 64)).map_batches(
            encoded_rows, batch_format="pyarrow", batch_size=None, num_cpus=0.5
        )

        def encoding() -> Iterator[None]:
            for batch in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
                plain = batch.drop_columns(["scale", "box", "vector"]).to_pylist()
                for number, row in enumerate(plain):
                    hand_in(run, file_of(row["row"]), row, batch, number)
                yield

        run._see_to_missing = lambda folders, prune: None
        store.tidy = lambda: None  # Joining pieces takes the whole table once more.
        for _ in run.over(encoding(), [], False):
            told.append(time.monotonic())
    marks = np.interp(np.linspace(0, len(told) - 1, 5), np.arange(len(told)), told)
    return {
        "pictures": pictures,
        "windows_in_the_store": Store.open(folder / "store").count_windows(),
        "pictures_a_second_by_quarter": [
            round(pictures / 4 / each, 1) for each in np.diff(marks).tolist()
        ],
    }


def file_of(number: int) -> Any:
    from localize.index.updates import File

    return File(f"/library/{number}", 3_000_000, number)


def encoded_rows(table: Any) -> Any:
    """Rows as `cluster.stages.Indexing` gives them."""
    import pyarrow as pa

    from localize.index.schema import padded

    numbers = table["id"].to_pylist()
    total, width = len(numbers) * WINDOWS, padded(DIMENSIONS)
    vectors = np.random.default_rng(numbers[0]).standard_normal((total, width), np.float32)
    offsets = pa.array(np.arange(0, total + 1, WINDOWS, dtype=np.int32))

    def lists(values: Any, length: int) -> Any:
        inner = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), length)
        return pa.ListArray.from_arrays(offsets, inner)

    count = len(numbers)
    return pa.table(
        {
            "row": numbers,
            "content": [f"{number:032x}" for number in numbers],
            "problem": pa.array([None] * count, pa.string()),
            "width": [4000] * count,
            "height": [3000] * count,
            "taken": pa.array([None] * count, pa.timestamp("s")),
            "camera": pa.array([None] * count, pa.string()),
            "scale": pa.ListArray.from_arrays(offsets, pa.array(np.ones(total, np.float32))),
            "box": lists(np.zeros((total, 4), np.float32), 4),
            "vector": lists(vectors.astype(np.float16), width),
        }
    )


# On paper ---------------------------------------------------------------------------------------

CROPS_A_SECOND = 1_450
"""ViT-B/32 on one RTX 3080, as clip-retrieval's README publishes it (1,400 to 1,500)."""

CORES_A_GPU, EUROS_AN_HOUR = 8, 1.2
"""A machine for rent, by its GPU: near the list price of AWS's g5.2xlarge (A10G, 8 vCPUs)."""

BATCH, STAGES = 32, 2
"""Pictures that the ledger hears of at once on GPUs, about, and how often."""


MEMORY = 1.5e9
"""Bytes that the command may take."""


def on_paper(measured: str) -> None:
    """Which of encoder, cores, command and store is slowest, and what the run then takes."""
    lines = [json.loads(line) for line in Path(measured).read_text().splitlines()]
    found = {line["command"] + line.get("into", ""): line for line in lines}
    parts, workers, store = (found[name] for name in ("parts", "workers", "rowsstore"))
    ways = ("without Ray", "1 worker")
    plain, ray = (workers[way]["processor_seconds_a_picture"] for way in ways)
    photo = parts["photo_of_12_megapixels"]
    reading = photo["seconds"] + max(0.0, ray - plain)
    ledger = BATCH / STAGES / parts["ledger_seconds_a_batch"]
    command = {
        "detect": 1 / parts["driver_processor_seconds_a_row"],
        "index": store["pictures"] / store["driver_processor_seconds"],
    }
    first, *_, last = store["driver_gigabytes_by_quarter"]
    remembered = {
        "detect": parts["bytes_of_a_task"],
        "index": (last - first) * 1e9 / (0.75 * store["pictures"]) + parts["bytes_of_a_task"],
    }
    cores = {"detect": reading + parts["maps_and_boxes"] + parts["overlay"], "index": reading}
    sizes = {
        "detect": parts["bytes_of_answers"],
        "index": 1e9 * store["gigabytes_written"] / store["pictures"],
    }
    for what, rate in command.items():
        print(
            f"{what}: the command {rate:,.0f} pictures a second, the ledger {ledger:,.0f}, "
            f"{CORES_A_GPU} cores {CORES_A_GPU / cores[what]:,.0f}, an encoder "
            f"{CROPS_A_SECOND / WINDOWS:,.0f}; the command remembers {remembered[what]:,.0f} bytes "
            f"a picture, {MEMORY / remembered[what] / 1e6:,.1f} million in {MEMORY / 1e9} GB\n"
        )
    print("| | pictures | GPUs | slowest | a second | hours | euros | read, Gbit/s | written, GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for what, single in command.items():
        for power in (6, 8, 9):
            for gpus in (1, 8, 64):
                limits = {
                    "encoder": gpus * CROPS_A_SECOND / WINDOWS,
                    "cores": gpus * CORES_A_GPU / cores[what],
                    "command": single,
                    "ledger": ledger,
                }
                slowest = min(limits, key=limits.__getitem__)
                rate = limits[slowest]
                hours = 10**power / rate / 3600
                print(
                    f"| {what} | 10^{power} | {gpus} | {slowest} | {rate:,.0f} | {hours:,.1f} | "
                    f"{hours * gpus * EUROS_AN_HOUR:,.0f} | {rate * photo['bytes'] * 8e-9:,.1f} | "
                    f"{10**power * sizes[what] / 1e9:,.0f} |"
                )


if __name__ == "__main__":
    main()
