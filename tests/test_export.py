"""Every export, read back by the reader that its users have, gives the boxes again."""

from __future__ import annotations

import csv
import io
import json
import weakref
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import tiny_checkpoint
from PIL import Image

from localize import Box, Localization, Localizer, ZeroShotDetector, export
from localize.cli import main
from localize.export import Answer

LABELS = ("a cat", "猫 & <dog>", 'say "x": #1')


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    """Pictures on the disk with odd names, one on its side by EXIF, one without boxes."""
    folder = tmp_path_factory.mktemp("the pictures")
    names = ["a photo.jpg", "b/a photo.jpg", "b/a photo.png", "b/写真 #1.jpg", "none.png"]
    rng = np.random.default_rng(3)
    made = []
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        image, exif = Image.new("RGB", (64, 48)), Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        image.save(path, exif=exif)
        width, height = (48, 64) if number == 1 else (64, 48)
        boxes = []
        for label in LABELS if name != "none.png" else ():
            left, right = sorted(rng.choice(width + 1, 2, replace=False).tolist())
            top, bottom = sorted(rng.choice(height + 1, 2, replace=False).tolist())
            boxes.append(Box(label, round(rng.random(), 4), (left, top, right, bottom)))
        presence = dict.fromkeys(LABELS, 0.5)
        made.append(Answer(name, str(path), width, height, "model", presence, tuple(boxes)))
    return made


def boxes_of(answer: Answer) -> list[tuple[str, tuple[float, ...]]]:
    return sorted((box.label, box.xyxy) for box in answer.boxes)


def test_coco_is_read_by_pycocotools(answers: list[Answer], tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs the extra evaluate")
    for name in ("coco", "coco-results"):
        export.save_answers(answers, name, tmp_path)
    with redirect_stdout(io.StringIO()):
        dataset = coco.COCO(tmp_path / "coco.json")
        results = dataset.loadRes(str(tmp_path / "coco-results.json"))
    for number, answer in enumerate(answers, 1):
        image = dataset.loadImgs(number)[0]
        size = (answer.width, answer.height)
        assert (image["file_name"], image["width"], image["height"]) == (answer.name, *size)
        for reader in (dataset, results):
            found = [
                (dataset.cats[row["category_id"]]["name"], xyxy(row["bbox"]), row["score"])
                for row in reader.loadAnns(reader.getAnnIds(number))
            ]
            assert sorted(found) == sorted((b.label, b.xyxy, b.score) for b in answer.boxes)


def xyxy(bbox: list[float]) -> tuple[float, ...]:
    return bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]


def test_yolo_is_read_by_supervision_and_the_pictures_lie_where_trainers_look(
    answers: list[Answer], tmp_path: Path
) -> None:
    supervision = pytest.importorskip("supervision", reason="needs the extra supervision")
    export.save_answers(answers, "yolo", tmp_path)
    for folder in ("", "b"):
        images = tmp_path / "yolo" / "images" / folder
        flat = tmp_path / f"flat {folder}"  # supervision looks into one folder at a time
        flat.mkdir()
        for path in images.glob("*.*"):
            (flat / path.name).symlink_to(path.resolve())
        dataset = supervision.DetectionDataset.from_yolo(
            images_directory_path=str(flat),
            annotations_directory_path=str(tmp_path / "yolo" / "labels" / folder),
            data_yaml_path=str(tmp_path / "yolo" / "data.yaml"),
        )
        found = [
            sorted(
                (dataset.classes[number], tuple(np.rint(corners).tolist()))
                for number, corners in zip(each.class_id, each.xyxy, strict=True)
            )
            for _, _, each in dataset
        ]
        here = [answer for answer in answers if ("/" in answer.name) == bool(folder)]
        # supervision takes the size of the stored picture where viewers and trainers turn it.
        upright = [answer for answer in here if answer.height < answer.width]
        assert all(boxes_of(answer) in found for answer in upright)
        assert len(found) == len(here)


def test_yolo_labels_are_fractions_of_the_upright_picture(
    answers: list[Answer], tmp_path: Path
) -> None:
    yaml = pytest.importorskip("yaml")
    export.save_answers(answers, "yolo", tmp_path)
    names = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text("utf-8"))["names"]
    turned = answers[1]
    rows = [
        line.split() for line in (tmp_path / "yolo/labels/b/a photo.txt").read_text().splitlines()
    ]
    found = []
    for number, *values in rows:
        x, y, width, height = map(float, values)
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        size = np.tile((turned.width, turned.height), 2)
        found.append((names[int(number)], tuple(np.rint(corners * size).tolist())))
    assert sorted(found) == boxes_of(turned)
    with Image.open(tmp_path / "yolo" / "images" / "b" / "a photo.jpg") as image:
        assert image.getexif()[0x0112] == 6
    assert (tmp_path / "yolo" / "labels" / "none.txt").read_text() == ""
    assert (tmp_path / "yolo" / "labels" / "b" / "a photo-png.txt").exists()


def test_voc_counts_pixels_from_one_to_the_last_inside(
    answers: list[Answer], tmp_path: Path
) -> None:
    export.save_answers(answers, "voc", tmp_path)
    for answer in answers:
        root = ET.parse(tmp_path / "voc" / f"{answer.name}.xml").getroot()
        size = [root.findtext(f"size/{name}") for name in ("width", "height", "depth")]
        assert size == [str(answer.width), str(answer.height), "3"]
        found = []
        for thing in root.iter("object"):
            left, top, right, bottom = (
                int(thing.findtext(f"bndbox/{name}") or "")
                for name in ("xmin", "ymin", "xmax", "ymax")
            )
            assert 1 <= left <= right <= answer.width
            assert 1 <= top <= bottom <= answer.height
            found.append((thing.findtext("name"), (left - 1, top - 1, right, bottom)))
        assert sorted(found) == boxes_of(answer)


def test_labelme_names_its_picture_by_the_way_to_it(answers: list[Answer], tmp_path: Path) -> None:
    export.save_answers(answers, "labelme", tmp_path)
    for answer in answers:
        path = tmp_path / "labelme" / f"{answer.name}.json"
        read = json.loads(path.read_text("utf-8"))
        assert (path.parent / read["imagePath"]).samefile(str(answer.path))
        assert (read["imageWidth"], read["imageHeight"]) == (answer.width, answer.height)
        found = [(s["label"], (*s["points"][0], *s["points"][1])) for s in read["shapes"]]
        assert sorted(found) == boxes_of(answer)


def test_label_studio_gets_percent_of_the_picture_and_a_configuration_that_fits(
    answers: list[Answer], tmp_path: Path
) -> None:
    export.save_answers(answers, "label-studio", tmp_path)
    tasks = json.loads((tmp_path / "label-studio.json").read_text("utf-8"))
    config = ET.parse(tmp_path / "label-studio.xml").getroot()
    image, control = config.find("Image"), config.find("RectangleLabels")
    assert image is not None
    assert control is not None
    assert [label.get("value") for label in control] == list(LABELS)
    for answer, task in zip(answers, tasks, strict=True):
        found = []
        for region in task["predictions"][0]["result"]:
            assert region["from_name"] == control.get("name")
            assert region["to_name"] == image.get("name") == control.get("toName")
            assert f"${next(iter(task['data']))}" == image.get("value")
            value = region["value"]
            corners = xyxy([value[key] for key in ("x", "y", "width", "height")])
            size = np.tile((region["original_width"], region["original_height"]), 2)
            pixels = np.rint(np.array(corners) * size / 100)
            found.append((value["rectanglelabels"][0], tuple(pixels.tolist())))
        assert sorted(found) == boxes_of(answer)


def test_createml_counts_from_the_centre(answers: list[Answer], tmp_path: Path) -> None:
    export.save_answers(answers, "createml", tmp_path)
    for answer, row in zip(
        answers, json.loads((tmp_path / "createml.json").read_text("utf-8")), strict=True
    ):
        assert row["image"] == answer.name
        found = []
        for each in row["annotations"]:
            at = each["coordinates"]
            x, y = at["x"] - at["width"] / 2, at["y"] - at["height"] / 2
            found.append((each["label"], xyxy([x, y, at["width"], at["height"]])))
        assert sorted(found) == boxes_of(answer)


def test_csv_and_jsonl_have_every_box_and_say_what_is_not_there(
    answers: list[Answer], tmp_path: Path
) -> None:
    for name in ("csv", "jsonl"):
        export.save_answers(answers, name, tmp_path)
    with open(tmp_path / "boxes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (tmp_path / "results.jsonl").read_text("utf-8").splitlines()
    for answer, line in zip(answers, lines, strict=True):
        mine = [row for row in rows if row["file"] == answer.name]
        assert [row["label"] for row in mine] == list(LABELS)
        found = [
            (row["label"], tuple(float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")))
            for row in mine
            if row["score"]
        ]
        assert sorted(found) == boxes_of(answer)
        read = json.loads(line)
        assert sorted((b["label"], tuple(b["xyxy"])) for b in read["boxes"]) == boxes_of(answer)
        assert read["presence"] == answer.presence


def test_answers_are_asked_for_once_and_one_by_one_for_all_formats(
    answers: list[Answer], tmp_path: Path
) -> None:
    for name in export.FORMATS:
        export.save_answers(answers, name, tmp_path / "each")
    alive: list[weakref.ref[Answer]] = []

    def once() -> Iterator[Answer]:
        for each in answers:
            assert sum(answer() is not None for answer in alive) <= 1
            answer = replace(each)
            alive.append(weakref.ref(answer))
            yield answer

    export.save_answers(once(), export.FORMATS, tmp_path / "all")
    assert len(alive) == len(answers)
    assert _files(tmp_path / "all") == _files(tmp_path / "each")


def _files(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        name.as_posix(): path.read_bytes().replace(str(folder).encode(), b"")
        for name, path in files.items()
    }


@pytest.fixture(scope="module")
def result() -> Localization:
    boxes = [Box("a dog", 0.75, (1, 2, 30, 40)), Box("a cat", 0.5, (0, 0, 64, 48))]
    return Localization(
        pixels=np.zeros((48, 64, 3), np.uint8),
        file="photo.jpg",
        model="model",
        prompts=("a cat", "a dog", "a bus"),
        presence=np.array([0.5, 0.8, 0.0], np.float32),
        maps=np.zeros((3, 6, 8), np.float32),
        boxes=boxes,
    )


def test_results_are_saved_by_the_names_of_their_files(
    result: Localization, tmp_path: Path
) -> None:
    export.save([result], "jsonl", tmp_path)
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "photo.jpg"
    with pytest.raises(ValueError, match=r"two pictures are called 'photo\.jpg'"):
        export.save([result, result], "jsonl", tmp_path)
    with pytest.raises(ValueError, match="'pascal' is no export; there are coco, "):
        export.save([result], "pascal", tmp_path)


def test_a_result_becomes_detections_of_supervision(result: Localization) -> None:
    pytest.importorskip("supervision", reason="needs the extra supervision")
    found = result.to_supervision()
    assert found.xyxy.tolist() == [[1, 2, 30, 40], [0, 0, 64, 48]]
    assert found.confidence.tolist() == [0.75, 0.5]
    assert found.class_id.tolist() == [1, 0]
    assert found.data["class_name"].tolist() == ["a dog", "a cat"]


def test_the_detector_answers_as_transformers_pipeline_does() -> None:
    from localize.evaluation.scenes import demo_scene

    image = demo_scene().image
    localizer = Localizer.from_pretrained("emoji")
    detector = ZeroShotDetector(localizer)
    found = detector(Image.fromarray(image), candidate_labels=["a cat", "a butterfly"])
    assert found == [
        {"score": box["score"], "label": box["label"], "box": box["box"]}
        for box in localizer.locate(image, ["a cat", "a butterfly"]).to_dict()["boxes"]
    ]
    assert set(found[0]["box"]) == {"xmin", "ymin", "xmax", "ymax"}
    pair = {"image": image, "candidate_labels": "a cat, a butterfly"}
    assert detector([pair, pair]) == [found, found]
    assert detector(image, ["a cat"], top_k=1, threshold=0) == detector(image, ["a cat"])[:1]
    assert detector(image, ["a cat"], threshold=1.0) == []
    with pytest.raises(ValueError, match="candidate_labels must say"):
        detector(image)


def test_a_run_writes_exports_of_all_that_is_finished(tmp_path: Path) -> None:
    model = str(tiny_checkpoint(tmp_path / "model", "clip"))
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "more/a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(photos / name)
    command = ["detect", str(photos), "-p", "a cat", "--model", model, "--quiet"]
    out = ["-o", str(tmp_path / "out")]
    assert main([*command, *out, "--export", "coco", "csv"]) == 0
    written = {path: path.read_bytes() for path in (tmp_path / "out" / "exports").iterdir()}
    assert {path.name for path in written} == {"coco.json", "boxes.csv"}
    coco = json.loads((tmp_path / "out/exports/coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png", "more/a.png"]
    for path in written:
        path.unlink()
    (tmp_path / "out" / "b.png.json").unlink()
    assert main([*command, *out, "--resume", "--export", "coco", "csv"]) == 0
    assert {path: path.read_bytes() for path in written} == written
