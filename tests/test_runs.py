"""What a run leaves in its folder besides each picture's answers, and what it says of itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import tiny_checkpoint
from PIL import Image

from localize.cli import main
from localize.result import Box, Localization
from localize.runs import Run, Task, slug

FOUND = {
    "a.png": [Box("a cat", 0.9, (10.2, 20, 30, 40.5)), Box("a dog", 0.4, (0, 0, 5, 5))],
    "more/b.png": [Box("a cat", 0.3, (1, 2, 3, 4))],
    "c d.png": [],
}
PROMPTS = ("a cat", "a dog", "a bus")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (len(FOUND), 60, 80, 3), np.uint8)
    for name, pixels in zip(FOUND, noise, strict=True):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


@pytest.fixture
def done(photos: Path, tmp_path: Path) -> Callable[..., tuple[Run, list[Task]]]:
    """A run over the pictures that has found what `FOUND` says."""

    def run(prompts: tuple[str, ...] = PROMPTS, **outputs: Any) -> tuple[Run, list[Task]]:
        job = Run(tmp_path / "out", prompts, {"model": "mine"}, **outputs)
        tasks = job.tasks(photos / name for name in FOUND)
        job.prepare(tasks)
        for task, boxes in zip(tasks, FOUND.values(), strict=True):
            job.write(task, _result(task.path, prompts, boxes))
        return job, tasks

    return run


def _result(path: Path, prompts: tuple[str, ...], boxes: list[Box]) -> Localization:
    return Localization(
        pixels=np.asarray(Image.open(path)),
        file=path.name,
        model="a model",
        prompts=prompts,
        presence=np.full(len(prompts), 0.5, np.float32),
        maps=np.zeros((len(prompts), 3, 4), np.float32),
        boxes=[box for box in boxes if box.label in prompts],
        source=path,
    )


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


FACTS = {f"{name}.json" for name in FOUND}


def test_the_summary_counts_what_is_on_the_disk(done: Any, tmp_path: Path) -> None:
    job, tasks = done()
    job.summarize(tasks, ["cannot read x.png: it is damaged"], 2, 0.5)
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["images"] == 3
    no_videos = {"videos": 0, "seconds": 0}
    assert told["videos"] == 0
    assert told["found"] == [
        {"prompt": "a cat", "images": 2, "boxes": 2, "not_here": 1} | no_videos,
        {"prompt": "a dog", "images": 1, "boxes": 1, "not_here": 2} | no_videos,
        {"prompt": "a bus", "images": 0, "boxes": 0, "not_here": 3} | no_videos,
    ]
    assert told["failed"] == ["cannot read x.png: it is damaged"]
    assert told["speed"] == {"images": 2, "seconds": 0.5, "images_per_second": 4}
    assert told["settings"] == {"model": "mine"}
    assert told["versions"]["numpy"] == np.__version__


def test_overlays_are_none_boxes_or_heatmaps(done: Any, tmp_path: Path) -> None:
    boxes = {f"{name}.boxes.png" for name in FOUND}
    heat = {f"{name}.1-a-cat.heatmap.png" for name in FOUND}
    for overlays, files in {"heatmaps": boxes | heat, "boxes": boxes, "none": set()}.items():
        done(("a cat",), overlays=overlays)
        assert written(tmp_path / "out") == FACTS | files


def test_crops_are_what_the_boxes_enclose(done: Any, photos: Path, tmp_path: Path) -> None:
    done(overlays="none", crops=True)
    crops = {
        "crops/1-a-cat/a.png.1.crop.png": (10, 20, 30, 41),
        "crops/2-a-dog/a.png.2.crop.png": (0, 0, 5, 5),
        "crops/1-a-cat/more/b.png.1.crop.png": (1, 2, 3, 4),
    }
    assert written(tmp_path / "out") == FACTS | set(crops)
    for crop, box in crops.items():
        name = "more/b.png" if "more" in crop else "a.png"
        expected = np.asarray(Image.open(photos / name).crop(box))
        assert (np.asarray(Image.open(tmp_path / "out" / crop)) == expected).all()


def test_a_picture_without_one_of_its_crops_is_not_finished(done: Any, tmp_path: Path) -> None:
    job, tasks = done(crops=True)
    assert all(map(job.is_finished, tasks))
    (tmp_path / "out" / "crops" / "2-a-dog" / "a.png.2.crop.png").unlink()
    assert [job.is_finished(task) for task in tasks] == [False, True, True]


def test_what_an_earlier_question_left_goes(done: Any, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "crops" / "1-a-cat" / "a.png.1.png"
    mine.parent.mkdir(parents=True)
    mine.touch()
    done(overlays="heatmaps", crops=True, report=True)
    done(("a bus",), overlays="none")
    assert written(tmp_path / "out") == FACTS | {"crops/1-a-cat/a.png.1.png"}


def test_a_picture_is_not_finished_where_the_report_lacks_it(done: Any) -> None:
    job, tasks = done()
    wanting = Run(job.folder, job.prompts, job.settings, report=True)
    assert not any(map(wanting.is_finished, tasks))


def test_a_picture_whose_answers_would_be_the_runs_summary_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "run", "PNG")
    with pytest.raises(ValueError, match="summary"):
        Run(tmp_path / "out", PROMPTS, {}).tasks([tmp_path / "run"])


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red Kite!", "a-red-kite"),
        ("हिन्दी में किताब", "हिन्दी-में-किताब"),
        ("กล้วยน้ำว้า", "กล้วยน้ำว้า"),
        ("cafe\u0301", "café"),
        ("../\u0301x/\u0301..", "x"),
        ("\u0301", "prompt"),
        ("🐈\ufe0f", "prompt"),
    ],
)
def test_the_names_of_outputs_keep_letters_with_their_marks(prompt: str, name: str) -> None:
    assert slug(prompt) == name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("clip"), "clip"))


@pytest.fixture
def detect(photos: Path, tmp_path: Path, checkpoint: str) -> Callable[..., int]:
    """Runs the command on the pictures, and one that is broken."""
    (photos / "x.png").write_bytes((photos / "a.png").read_bytes()[:60])
    words = ["detect", str(photos), "-p", "a cat", "--model", checkpoint]
    return lambda *more: main([*words, "-o", str(tmp_path / "out"), *map(str, more)])


def test_a_run_ends_with_what_was_found_what_failed_and_how_quick_it_was(
    detect: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert detect("--threshold", "1") == 1
    absent, failed, why, rate, last = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert absent == "not here in any image: a cat"
    assert failed == "1 failed:"
    assert "x.png" in why
    assert rate.startswith("3 images in ")
    assert last == f"The answers for 3 images are in {tmp_path / 'out'}."
    assert json.loads((tmp_path / "out" / "run.json").read_text())["failed"] == [why.strip()]


def test_paths_of_matching_and_missing_pictures_are_printed_for_shells(
    detect: Any, photos: Path, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    detect("--quiet")
    capsysbinary.readouterr()
    for path in (tmp_path / "out").rglob("*.png.json"):
        facts = json.loads(path.read_text())
        name = path.relative_to(tmp_path / "out").as_posix().removesuffix(".json")
        corners = dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), 1)
        facts["boxes"] = [{"label": "a cat", "score": 0.5, "box": corners} for _ in FOUND[name]]
        path.write_text(json.dumps(facts))
    for wanted, end, names in (
        ("matching", b"\n", ["a.png", "more/b.png"]),
        ("missing", b"\0", ["c d.png"]),
    ):
        more = ["--null"] if end == b"\0" else []
        detect("--resume", "--print", wanted, *more)
        lines = capsysbinary.readouterr().out.removesuffix(end).split(end)
        assert lines == [os.fsencode(photos / name) for name in names]


def test_a_report_is_written_at_the_end_also_of_a_resumed_run(detect: Any, tmp_path: Path) -> None:
    detect("--report", "--quiet")
    report = tmp_path / "out" / "report.html"
    whole = report.read_bytes()
    assert whole.count(b"<article") == 3
    report.unlink()
    (tmp_path / "out" / "a.png.json").unlink()
    detect("--report", "--quiet", "--resume")
    assert report.read_bytes() == whole
