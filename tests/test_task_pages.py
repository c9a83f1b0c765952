"""Every command on the pages of docs/tasks runs as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import tiny_checkpoint
from PIL import Image

from localize.cli import main
from localize.evaluation.scenes import demo_scene, make_scene

TASKS = Path(__file__).parents[1] / "docs" / "tasks"


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def kept_files(page: Path) -> list[tuple[str, str]]:
    """Names and contents of the files that a page shows, each with its name in its first line."""
    return re.findall(r"```yaml\n# (\S+)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' commands are run on."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("photos", "scans", "known/images"):
        (folder / name).mkdir(parents=True)
    scenes = {"garden": demo_scene(), "street": make_scene(2034), "yard": make_scene(2028)}
    for name, scene in scenes.items():
        Image.fromarray(scene.image).save(folder / "photos" / f"{name}.jpg", quality=92)
    for seed, thing, name in ((2029, "butterfly", "crop"), (2028, "broccoli", "broccoli")):
        scene = make_scene(seed)
        box = next(box for each, box in scene.objects if each == thing)
        Image.fromarray(scene.image).crop(box).save(folder / f"{name}.jpg")
    Image.fromarray(scenes["garden"].image[:64, :64]).save(folder / "scans" / "scan.png")
    _save_known(folder / "known", scenes["garden"])
    tiny_checkpoint(folder / "medical-clip", "clip")
    return folder


def _save_known(folder: Path, scene: object) -> None:
    objects = scene.objects  # type: ignore[attr-defined]
    image = scene.image  # type: ignore[attr-defined]
    Image.fromarray(image).save(folder / "images" / "garden.jpg", quality=92)
    names = sorted({name for name, _ in objects})
    instances = {
        "images": [
            {"id": 1, "file_name": "garden.jpg", "width": image.shape[1], "height": image.shape[0]}
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": names.index(name) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
            }
            for number, (name, (x0, y0, x1, y1)) in enumerate(objects, 1)
        ],
    }
    (folder / "instances.json").write_text(json.dumps(instances))


def _save_clip(path: Path) -> None:
    from localize.video import Frame, VideoWriter

    scene = demo_scene().image
    with VideoWriter(path, 0.5) as writer:
        for number in range(6):
            pixels = scene if 2 <= number < 4 else np.full_like(scene, 128)
            writer.write(Frame(number / 2, pixels))


@pytest.mark.parametrize("page", sorted(TASKS.glob("*.md")), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if "clip.mp4" in page.read_text(encoding="utf-8"):
        pytest.importorskip("av", reason="needs the extra video")
        _save_clip(tmp_path / "clip.mp4")
    if "localize index" in page.read_text(encoding="utf-8"):
        pytest.importorskip("lancedb", reason="needs the extra index")
    for name, content in kept_files(page):
        (tmp_path / name).write_text(content, encoding="utf-8")
    lines = commands(page)
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "localize", line
        assert main(arguments) == 0, line


@pytest.mark.parametrize("page", sorted(TASKS.glob("*.md")), ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
