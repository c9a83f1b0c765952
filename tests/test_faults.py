"""Runs that are killed, interrupted or crowded leave whole files and go on to the right answer."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from checkpoints import tiny_checkpoint
from PIL import Image

from localize import Localizer

KILLS = 20

# Imports once and forks a run at a time, since loading torch takes longer than the run itself.
KILLED_RUNS = """
import os, random, signal, sys, time
import localize.localizer
from localize.cli import main

def run(arguments):
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = main(arguments)
        finally:
            os._exit(code)
    return child

kills, *arguments = sys.argv[1:]
started = time.monotonic()
_, status = os.waitpid(run([*arguments, "-o", "whole"]), 0)
assert status == 0, status
whole_run = time.monotonic() - started
chance = random.Random(0)
arguments += ["-o", "broken", "--resume"]
for _ in range(int(kills)):
    child = run(arguments)
    time.sleep(chance.uniform(0.1, 0.9) * whole_run)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
_, status = os.waitpid(run(arguments), 0)
assert status == 0, status
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("clip"), "clip")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (16, 6, 8, 3), np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).resize((80, 60)).save(folder / f"{number:02}.png")
    return folder


def command(photos, checkpoint, *more):
    return ["detect", str(photos), "-p", "a cat", "--model", str(checkpoint), *more]


def contents(folder):
    """All files of a run but its summary, and the summary without how quick it was."""
    found = {path.relative_to(folder): path for path in folder.rglob("*.*") if path.is_file()}
    summary = found.pop(Path("run.json"), None)
    whole = {path: file.read_bytes() for path, file in found.items()}
    told = json.loads(summary.read_text("utf-8")) if summary else {}
    return whole, {key: value for key, value in told.items() if key != "speed"}


def test_twenty_killed_runs_and_a_last_one_give_what_an_unbroken_run_gives(
    photos, checkpoint, tmp_path
):
    outputs = ["--report", "--crops", "--export", "coco", "jsonl"]
    arguments = command(photos, checkpoint, "--quiet", "--threshold", "0", *outputs)
    code = [sys.executable, "-c", KILLED_RUNS, str(KILLS), *arguments]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (whole, told), broken = contents(tmp_path / "whole"), contents(tmp_path / "broken")
    kinds = ("*.png.json", "*.boxes.png", "*.crop.png", ".report/*.json", "report.html")
    counts = [sum(path.match(kind) for path in whole) for kind in kinds]
    assert counts == [32, 16, told["found"][0]["boxes"], 16, 1]
    assert broken == (whole, told)  # Nothing of what the killed runs were writing is left either.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_whole_files_and_one_sentence(
    photos, checkpoint, tmp_path, number, code
):
    # Many crops, so that on a busy machine too the signal comes before the last picture is done.
    arguments = command(photos, checkpoint, "-o", "out", "--stride", "0.1")
    run = subprocess.Popen(
        [sys.executable, "-m", "localize.cli", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run.stdout.readline()  # The first picture is done.
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == code
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    for path in (tmp_path / "out").glob("*.json"):
        json.loads(path.read_text("utf-8"))
        Image.open(path.with_suffix(".boxes.png")).load()


def test_two_processes_may_share_an_output_folder(photos, checkpoint, tmp_path):
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "localize.cli", *command(photos, checkpoint, "-o", "out")],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(contents(tmp_path / "out")[0]) == 32
    for path in (tmp_path / "out").glob("*.json"):
        json.loads(path.read_text("utf-8"))


def test_threads_may_share_a_localizer(photos, checkpoint):
    localizer = Localizer.from_pretrained(str(checkpoint))
    paths = sorted(photos.iterdir())
    alone = [localizer.locate(path, "a cat") for path in paths]
    shared = {}

    def locate(path):
        shared[path] = localizer.locate(path, "a cat")

    threads = [threading.Thread(target=locate, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path, expected in zip(paths, alone, strict=True):
        assert shared[path].boxes == expected.boxes
        assert (shared[path].maps == expected.maps).all()


# A file system of its own, as large as a few outputs are.
ON_A_SMALL_DISK = """
set -e
mkdir disk
mount -t tmpfs -o size=200k none disk
"$@" || code=$?
find disk -type f | sort | while read -r file; do cp --parents "$file" kept; done
exit "${code:-0}"
"""


def detect_on_a_small_disk(arguments, folder):
    (folder / "kept").mkdir()
    shell = ["unshare", "--mount", "--map-root-user", "sh", "-c", ON_A_SMALL_DISK, "sh"]
    run = [sys.executable, "-m", "localize", *arguments, "-o", "disk/out"]
    return subprocess.run([*shell, *run], cwd=folder, capture_output=True, text=True, check=False)


def can_mount():
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs a file system of its own")
def test_a_disk_that_fills_up_leaves_whole_files_and_one_sentence(photos, checkpoint, tmp_path):
    done = detect_on_a_small_disk(command(photos, checkpoint), tmp_path)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "no space left on device" in said
    kept, _ = contents(tmp_path / "kept")
    assert 2 <= len(kept) < 32
    for path, data in kept.items():
        assert path.suffix in (".png", ".json")
        json.loads(data) if path.suffix == ".json" else Image.open(io.BytesIO(data)).load()


LIMITED = """
import resource, sys
from localize.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_outputs_that_there_is_no_room_for_are_named_and_nothing_is_left(
    photos, checkpoint, tmp_path
):
    output = tmp_path / "out"
    arguments = command(photos / "00.png", checkpoint, "-o", str(output))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"localize: cannot write {output / '00.png.boxes.png'}: file too large\n"
    )
    (summary,) = output.iterdir()
    assert json.loads(summary.read_text("utf-8"))["images"] == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_output_that_nobody_can_take_is_no_traceback(photos, checkpoint, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "localize.cli", *command(photos, checkpoint, "-o", "out")],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
