"""A run on Ray whose worker and driver are killed: is every picture there once, and the same?

    python benchmarks/cluster_faults.py [--pictures 300] [--workers 2]

Writes small scenes and asks for things in them with the embedded model: without Ray; then on Ray,
where a worker that holds the model is killed (SIGKILL) after a fifth of the pictures and the driver
after two fifths; then again with `--resume`. Prints one line of JSON. Needs the extra `ray`, Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from localize.evaluation.scenes import make_scene

PROMPTS = ("a cat", "a dog", "a bicycle", "an apple")
SIDE = 320


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), parsed.pictures, parsed.workers)))


def measure(folder: Path, pictures: int, workers: int) -> dict:
    for seed in range(pictures):
        scene = Image.fromarray(make_scene(seed, (640, 480)).image)
        scene = scene.resize((SIDE, SIDE * 3 // 4))
        (folder / "scenes").mkdir(exist_ok=True)
        scene.save(folder / "scenes" / f"{seed:04}.png")
    plain, ray = folder / "plain", folder / "ray"
    assert subprocess.run(command(folder, plain), check=False).returncode == 0
    driver = subprocess.Popen(
        [*command(folder, ray), "--ray", "--ray-workers", str(workers)], start_new_session=True
    )
    wait_for(ray, pictures // 5)
    victim = workers_of(driver.pid)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(ray, 2 * pictures // 5)
    restarted = [each for each in workers_of(driver.pid) if each != victim]
    below = descendants(driver.pid)
    driver.kill()
    driver.wait()
    before = answers(ray)
    time.sleep(10)
    left = [each for each in below if Path(f"/proc/{each}").exists()]
    again = subprocess.run(
        [*command(folder, ray), "--ray", "--ray-workers", str(workers), "--resume"], check=False
    )
    after = answers(ray)
    summary = json.loads((ray / "run.json").read_text())
    return {
        "pictures": pictures,
        "workers": workers,
        "workers_after_the_kill": len(restarted),
        "done_when_the_driver_was_killed": len(before),
        "processes_left_by_it": len(left),
        "exit_code_of_the_second_run": again.returncode,
        "done_by_the_second_run": summary["speed"]["images"],
        "done_again": sum(after[name][0] != before[name][0] for name in before),
        "answers": len(after),
        "equal_to_the_run_without_ray": contents(ray) == contents(plain),
    }


def command(folder: Path, output: Path) -> list[str]:
    start = [sys.executable, "-m", "localize", "detect", str(folder / "scenes"), "--quiet"]
    return [*start, "--model", "emoji", "-o", str(output), "--prompt", *PROMPTS]


def answers(output: Path) -> dict[str, tuple[int, bytes]]:
    """When each picture's JSON was written, and what is in it."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in output.glob("*.png.json")
    }


def contents(output: Path) -> dict[str, bytes]:
    """All files of a run but its summary, which tells how quick it was."""
    return {path.name: path.read_bytes() for path in output.iterdir() if path.name != "run.json"}


def wait_for(output: Path, count: int) -> None:
    end = time.monotonic() + 300
    while not output.is_dir() or len(answers(output)) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"no {count} answers within five minutes")
        time.sleep(0.2)


def workers_of(driver: int) -> list[int]:
    """The processes below a driver that hold a model."""
    return [each for each in descendants(driver) if b"MapWorker" in title(each)]


def descendants(process: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = status.read_text().split(" ", 1)
        except OSError:
            continue
        parent = int(rest.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(pid))
    found = children.get(process, [])
    for each in found:  # grows while it is read
        found.extend(children.get(each, []))
    return found


def title(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
