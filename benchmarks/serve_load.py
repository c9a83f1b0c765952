"""A server under load: wrong answers, errors, memory, and a kept picture beside a new one.

    python benchmarks/serve_load.py [--seconds 120] [--clients 8]

Starts `localize serve --model emoji` and clients that each ask about scenes of their own and shared
ones, new and kept; every answer is compared with the first one for the same question. Prints one
line of JSON. Needs the extra `app`.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from PIL import Image

from localize.evaluation.scenes import make_scene

PROMPTS = ("a cat", "a dog", "a bicycle", "an apple", "a bus", "a clock")
SCENES = 40
KEEP = 300  # megabytes, a dozen scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=8)
    parsed = parser.parse_args()
    scenes = [png(seed) for seed in range(SCENES)]
    command = [sys.executable, "-m", "localize", "serve", "--model", "emoji", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--keep", str(KEEP)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = server.stdout.readline().split(" at ")[1].split(";")[0]
        print(json.dumps(measure(address, server.pid, scenes, parsed)))
    finally:
        server.terminate()
        server.wait()


def measure(address: str, pid: int, scenes: list[bytes], parsed: argparse.Namespace) -> dict:
    known: dict[tuple[int, str], object] = {}
    lock, end = threading.Lock(), time.monotonic() + parsed.seconds
    counts = {"answers": 0, "wrong": 0, "errors": 0}
    memory = []

    def client(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as connection:
            while time.monotonic() < end:
                scene, prompt = chance.randrange(len(scenes)), chance.choice(PROMPTS)
                answer = ask(connection, scenes[scene], prompt)
                with lock:
                    counts["answers"] += 1
                    if answer.status_code != 200:
                        counts["errors"] += 1
                    elif known.setdefault((scene, prompt), answer.json()) != answer.json():
                        counts["wrong"] += 1

    with ThreadPoolExecutor(parsed.clients) as pool:
        clients = [pool.submit(client, number) for number in range(parsed.clients)]
        while not all(each.done() for each in clients):
            memory.append(resident(pid))
            time.sleep(0.5)
        for each in clients:
            each.result()
    third = max(1, len(memory) // 3)
    thirds = [memory[start * third : (start + 1) * third] for start in range(3)]
    return counts | {
        "megabytes_median_of_each_third": [round(statistics.median(each)) for each in thirds],
        "megabytes_at_most_in_each_third": [round(max(each)) for each in thirds],
        **kept_beside_new(address),
    }


def kept_beside_new(address: str) -> dict[str, float]:
    """Median seconds of a new picture, and how many times as quick further questions about it are:
    the same one, another thing that is there, and one that is not."""
    seconds: dict[str, list[float]] = {"new": [], "same": [], "other": [], "absent": []}
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as connection:
        for seed in range(1000, 1015):
            picture, scene = png(seed), make_scene(seed)
            names, absent = scene.names, scene.absent[0]
            prompts = {"new": names[0], "same": names[0], "other": names[-1], "absent": absent}
            for kind, prompt in prompts.items():
                start = time.perf_counter()
                ask(connection, picture, prompt)
                seconds[kind].append(time.perf_counter() - start)
    median = {kind: statistics.median(each) for kind, each in seconds.items()}
    ratios = {f"new_over_kept_{kind}": median["new"] / median[kind] for kind in median}
    return {"new_s": round(median["new"], 3)} | {
        kind: round(ratio, 1) for kind, ratio in ratios.items() if not kind.endswith("new")
    }


def ask(connection: httpx.Client, picture: bytes, prompt: str) -> httpx.Response:
    return connection.post("/locate", files={"image": picture}, data={"prompts": prompt})


def png(seed: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(make_scene(seed).image).save(data, "png", compress_level=1)
    return data.getvalue()


def resident(pid: int) -> float:
    """What a process has in memory, in megabytes (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
