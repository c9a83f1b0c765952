"""Evaluation from end to end: folders and scenes in, figures and tables out."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colours import COLOURS, ColourEncoder
from PIL import Image, ImageDraw

from localize import Localizer, Options
from localize.evaluation import metrics
from localize.evaluation.coco import read_coco
from localize.evaluation.evaluate import (
    ask,
    format_per_class,
    format_table,
    load_object,
    own_names,
    peaks,
    run,
    scene_samples,
)
from localize.evaluation.samples import Sample, Truth
from localize.evaluation.scenes import concepts
from localize.evaluation.unknown import unknown_words
from localize.result import Localization

SHARED = Path(__file__).parents[2] / "shared"
PROMPTS = ("red", "green", "blue", "yellow")
BARS = (
    "precision50",
    "recall50",
    "cgF1_50",
    "precision30",
    "recall30",
    "cgF1_30",
    "AP50",
    "AP30",
    "pointing",
    "presence_auc",
    "corloc50",
    "crops_per_image",
    "false_boxes_per_absent_prompt",
    "seconds_per_image",
)


def squares(seed):
    """Two squares of different colours on grey, and the truth about them."""
    random = np.random.default_rng(seed)
    pixels = np.full((180, 240, 3), COLOURS["grey"], np.uint8)
    labels = tuple(random.choice(PROMPTS, 2, replace=False).tolist())
    boxes = []
    for label, left in zip(labels, (0, 120), strict=True):
        side = int(random.integers(60, 80))
        x, y = left + int(random.integers(15, 120 - side - 15)), int(random.integers(5, 95))
        pixels[y : y + side, x : x + side] = COLOURS[label]
        boxes.append((x, y, x + side, y + side))
    truth = Truth(f"squares-{seed}", labels, np.array(boxes, float), np.zeros(2, bool), PROMPTS)
    return Sample(pixels, truth)


@pytest.fixture(scope="module")
def samples():
    return [squares(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def report(samples):
    return run(samples, Localizer(ColourEncoder()), ("pinecone", "clip-diy"), source={"seed": 0})


def test_squares_of_plain_colours_are_told_apart_and_found(report):
    assert report["presence_auc"] == 1
    assert report["pointing"] == 1
    assert report["AP30"] > 0.5
    assert (
        report["crops_per_image"] == Localizer(ColourEncoder()).encode(squares(0).image).num_crops
    )


def test_a_report_is_plain_json_with_a_figure_for_every_bar(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for figures in (report, *report["recipes"].values()):
        assert all(isinstance(figures[key], float) for key in BARS)
        assert set(figures["per_class"]) == set(PROMPTS)


def test_a_report_says_what_was_run(report):
    config = report["config"]
    assert config["model"] == "ColourEncoder"
    assert config["options"]["threshold"] == Options().threshold
    assert config["images"] == 6
    assert config["seed"] == 0
    assert {"versions", "machine", "date"} <= config.keys()


def test_recipes_run_on_the_same_pictures_with_the_same_encoder(report):
    assert report["recipes"].keys() == {"pinecone", "clip-diy"}
    assert report["recipes"]["pinecone"]["crops_per_image"] == 40
    assert report["recipes"]["pinecone"]["false_boxes_per_absent_prompt"] == 1
    assert report["recipes"]["clip-diy"]["crops_per_image"] == 59


def test_two_runs_give_the_same_figures(samples, report):
    again = run(iter(samples), Localizer(ColourEncoder()))
    for key in (*BARS[:-1], "per_class"):
        assert again[key] == report[key]


def test_false_boxes_are_those_that_a_user_would_see(samples, report):
    options = Options(threshold=0.05)
    seen = Localizer(ColourEncoder(), options)
    drawn = sum(
        box.label not in sample.truth.labels
        for sample in samples
        for box in seen.locate(sample.image, PROMPTS).boxes
    )
    figures = run(samples, Localizer(ColourEncoder(), options))
    assert figures["false_boxes_per_absent_prompt"] == pytest.approx(drawn / (2 * len(samples)))


def test_figures_of_reported_boxes_are_those_of_what_a_user_sees(samples, report):
    seen = Localizer(ColourEncoder())
    answers = [ask(seen, sample)[1] for sample in samples]
    expected = metrics.reported_boxes([sample.truth for sample in samples], answers, 0.5)
    assert [report[f"{name}50"] for name in ("precision", "recall")] == [
        expected["precision"],
        expected["recall"],
    ]
    assert report["cgF1_50"] == expected["cgF1"]


def test_a_photo_can_be_asked_for_its_own_names_and_as_many_absent_ones(samples):
    many = replace(samples[0].truth, prompts=(*PROMPTS, "grey", "pink", "brown"))
    asked = [each.truth for each in own_names([Sample(samples[0].image, many)] * 5, seed=3)]
    for truth in asked:
        assert set(truth.labels) <= set(truth.prompts) <= set(many.prompts)
        assert len(truth.prompts) == 2 * len(set(truth.labels))
    assert len({truth.prompts for truth in asked}) > 1
    again = own_names([Sample(samples[0].image, many)] * 5, seed=3)
    assert [each.truth.prompts for each in again] == [truth.prompts for truth in asked]


def test_average_precision_does_not_depend_on_the_users_threshold(samples, report):
    strict = run(samples, Localizer(ColourEncoder(), Options(threshold=1.0)))
    assert strict["AP50"] == report["AP50"]
    assert strict["false_boxes_per_absent_prompt"] == 0


def test_progress_sees_every_sample_once(samples):
    seen = []

    def watch(items):
        for item in items:
            seen.append(item)
            yield item

    run(samples[:2], Localizer(ColourEncoder()), progress=watch)
    assert seen == samples[:2]


def test_an_unknown_recipe_and_no_samples_are_refused_in_words(samples):
    with pytest.raises(ValueError, match="recipes must be among pinecone, clip-diy, not yolo"):
        run(samples, Localizer(ColourEncoder()), ("yolo",))
    with pytest.raises(ValueError, match="nothing to evaluate"):
        run([], Localizer(ColourEncoder()))


def test_figures_that_nothing_was_counted_for_are_none_and_shown_as_a_dash():
    sample = squares(0)
    everything = replace(sample.truth, prompts=sample.truth.labels)
    report = run([Sample(sample.image, everything)], Localizer(ColourEncoder()))
    assert report["presence_auc"] is None
    assert report["false_boxes_per_absent_prompt"] is None
    assert " - " in format_table(report)


def test_the_table_has_a_line_a_method_and_the_class_table_a_line_a_name(report):
    for table, figure in zip(
        format_table(report).split("\n\n"), (report["AP50"], report["precision50"]), strict=True
    ):
        lines = table.splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["localize", "pinecone", "clip-diy"]
        assert len({len(line) for line in lines}) == 1
        assert f"{figure:.3f}" in lines[1]
    classes = format_per_class(report).splitlines()
    assert [line.split()[0] for line in classes] == ["name", *sorted(PROMPTS)]


def test_the_peak_of_a_plateau_is_its_middle():
    maps = np.zeros((2, 10, 20), np.float32)
    maps[0, 2:5, 4:9] = 0.7
    maps[1, 9, 19] = 0.1
    pixels = np.zeros((100, 200, 3), np.uint8)
    result = Localization(pixels, None, "", ("a", "b"), np.zeros(2, np.float32), maps, [])
    np.testing.assert_allclose(peaks(result), [(65, 35), (195, 95)])


def test_a_scene_is_asked_for_its_own_names_and_as_many_words_that_are_not_in_it():
    known = {concept.name for concept in concepts()}
    for sample in scene_samples(5, seed=70):
        truth = sample.truth
        own = set(truth.labels)
        assert set(truth.prompts) - set(truth.unknown) <= known
        assert not set(truth.unknown) & known
        assert len(truth.unknown) == (len(own) + 1) // 2
        assert len(truth.prompts) == len(set(truth.prompts)) == 2 * len(own)
        assert truth.present().sum() == len(own)
        assert len(truth.labels) == len(truth.xyxy) == len(truth.iscrowd)


def test_no_unknown_word_is_a_name_or_one_of_its_other_words():
    words = {word.lower() for word in unknown_words()}
    known = {word for each in concepts() for word in (each.name, *each.synonyms)}
    assert len(words) == len(unknown_words()) >= 200
    assert not words & (known | {word + "s" for word in known})


def test_unknown_words_are_counted_apart_from_absent_names(samples):
    asked = [
        Sample(each.image, replace(each.truth, prompts=(*PROMPTS, "grey"), unknown=("grey",)))
        for each in samples
    ]
    plain, apart = (run(each, Localizer(ColourEncoder())) for each in (samples, asked))
    assert plain["presence_of_unknown_prompts"] is None
    assert plain["false_boxes_per_unknown_prompt"] is None
    assert apart["presence_of_unknown_prompts"] > 0.9  # everything but the squares is grey
    assert apart["false_boxes_per_unknown_prompt"] > 0
    key = "false_boxes_per_absent_prompt"
    assert apart[key] == plain[key]


def test_scenes_are_those_of_consecutive_seeds():
    (second,) = scene_samples(1, seed=8)
    both = list(scene_samples(2, seed=7))
    np.testing.assert_array_equal(both[1].image, second.image)
    assert both[1].truth.prompts == second.truth.prompts
    assert not np.array_equal(both[0].image, second.image)


@pytest.fixture
def folder(tmp_path):
    """A COCO folder of two photos; the second one has a crowd and nothing else."""
    (tmp_path / "images").mkdir()
    for number in (0, 1):
        Image.fromarray(squares(number).image).save(tmp_path / "images" / f"{number}.png")
    write(
        tmp_path,
        {
            "images": [
                {"id": 7, "file_name": "0.png", "width": 240, "height": 180},
                {"id": 3, "file_name": "1.png", "width": 240, "height": 180},
            ],
            "categories": [{"id": 5, "name": "red"}, {"id": 90, "name": "green"}],
            "annotations": [
                {"image_id": 7, "category_id": 90, "bbox": [10, 20, 30.5, 40], "iscrowd": 0},
                {"image_id": 7, "category_id": 5, "bbox": [1, 2, 0, 40], "iscrowd": 0},
                {"image_id": 3, "category_id": 5, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            ],
        },
    )
    return tmp_path


def write(folder, records):
    (folder / "instances.json").write_text(json.dumps(records), encoding="utf-8")


def records_of(folder):
    return json.loads((folder / "instances.json").read_text(encoding="utf-8"))


def test_a_coco_folder_becomes_samples_with_corners_and_all_names_asked(folder):
    first, second = read_coco(folder)
    assert first.image == folder / "images" / "0.png"
    assert first.truth.file == "0.png"
    assert first.truth.labels == ("green",)  # the box without width is no box
    np.testing.assert_allclose(first.truth.xyxy, [(10, 20, 40.5, 60)])
    assert first.truth.prompts == second.truth.prompts == ("red", "green")
    assert second.truth.labels == ("red",)
    assert second.truth.iscrowd.tolist() == [True]
    _, answer = ask(Localizer(ColourEncoder()), first)
    assert answer.presence.shape == (2,)


HOOK = [[100, 40, 140, 40, 140, 50, 110, 50, 110, 90, 100, 90]]
"""A polygon that is no rectangle."""
ROWS = [80 * 180, 100, 160 * 180 - 100]
"""Runs, down the columns from the top left: the upper 100 pixels of column 80."""


def masked(folder, *masks):
    """The folder with one red thing in its first photo for each mask, and no other annotation."""
    records = records_of(folder)
    records["annotations"] = [
        {"image_id": 7, "category_id": 5, "bbox": [9, 9, 9, 9], "segmentation": mask}
        for mask in masks
    ]
    write(folder, records)
    return read_coco(folder)


def compressed(mask):
    """A mask bool (H, W) in COCO's compressed form."""
    from pycocotools import mask as coco_mask

    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return runs | {"counts": runs["counts"].decode("ascii")}


def test_masks_are_read_from_polygons_and_both_kinds_of_runs(folder):
    disc = np.hypot(*np.mgrid[-30:150, -40:200]) < 20
    runs = {"size": [180, 240], "counts": ROWS}
    first, second = masked(folder, HOOK, runs, compressed(disc))
    expected = np.full((180, 240), -1)
    hook = Image.new("1", (240, 180))
    # What lies between the corners: Pillow draws the last row and column too.
    draw = ImageDraw.Draw(hook)
    draw.rectangle((100, 40, 139, 49), fill=1)
    draw.rectangle((100, 50, 109, 89), fill=1)
    expected[np.array(hook)] = 0
    expected[:100, 80] = 1
    expected[disc] = 2
    np.testing.assert_array_equal(first.masks(), expected)
    assert (second.masks() == -1).all()  # a photo without anything, in a file with masks


def test_where_masks_lie_on_one_another_the_smaller_one_is_in_front(folder):
    large, small = [[0, 0, 100, 0, 100, 100, 0, 100]], [[20, 20, 40, 20, 40, 40, 20, 40]]
    for masks in ((small, large), (large, small)):
        shown = masked(folder, *masks)[0].masks()
        assert shown[30, 30] == masks.index(small)
        assert shown[60, 60] == masks.index(large)


def test_photos_with_a_box_that_has_no_mask_have_none(folder):
    assert all(sample.masks is None for sample in read_coco(folder))
    without, empty = masked(folder, HOOK, [])
    assert without.masks is None
    assert empty.masks is not None


@pytest.mark.parametrize(
    "mask", [[[1, 2, 3, 4]], "here", {"counts": [1]}, {"size": [180, 240], "counts": [7, 9]}]
)
def test_a_segmentation_that_is_none_is_refused_in_words(folder, mask):
    with pytest.raises(ValueError, match="not in COCO's format"):
        masked(folder, mask)


def test_a_mask_of_another_size_or_that_does_not_fit_is_refused_with_the_photo(folder):
    small = compressed(np.ones((90, 120), bool))
    with pytest.raises(ValueError, match=r"0\.png is 240 x 180 .* has a mask of 120 x 90"):
        masked(folder, small)[0].masks()
    large = compressed(np.ones((360, 480), bool))
    with pytest.raises(ValueError, match=r"a mask of .*0\.png cannot be read"):
        masked(folder, large | {"size": [180, 240]})[0].masks()


def test_a_photo_with_masks_is_judged_as_a_segmentation(folder):
    records = records_of(folder)
    truth = squares(0).truth
    records["categories"] = [{"id": 9 + i, "name": name} for i, name in enumerate(PROMPTS)]
    records["annotations"] = [
        {
            "image_id": 7,
            "category_id": 9 + PROMPTS.index(label),
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        }
        for label, (left, top, right, bottom) in zip(truth.labels, truth.xyxy.tolist(), strict=True)
    ]
    records["images"] = records["images"][:1]
    write(folder, records)
    report = run(read_coco(folder), Localizer(ColourEncoder()), ("pinecone",))
    relevance = Localizer(ColourEncoder()).locate(squares(0).image, PROMPTS).relevance
    said, shares = relevance.argmax(0), {}
    inside = np.zeros(said.shape, bool)
    for left, top, right, bottom in truth.xyxy.astype(int):
        inside[top:bottom, left:right] = True
    for label, (left, top, right, bottom) in zip(truth.labels, truth.xyxy.astype(int), strict=True):
        true = np.zeros(said.shape, bool)
        true[top:bottom, left:right] = True
        given = (said == PROMPTS.index(label)) & inside
        shares[label] = (true & given).sum() / (true | given).sum()
    assert report["mIoU"] == pytest.approx(np.mean(list(shares.values())))
    assert {name: row["IoU"] for name, row in report["per_class"].items()} == shares
    assert report["mIoU"] > 0.9
    assert 0 < report["mIoU_background"] < 1
    assert report["recipes"]["pinecone"]["mIoU"] is None


def test_a_folder_without_instances_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no COCO folder.*instances\.json and images/"):
        read_coco(tmp_path)


def test_a_photo_that_is_missing_is_named(folder):
    (folder / "images" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png is named in instances\.json"):
        read_coco(folder)


def test_a_photo_of_another_size_is_refused(folder):
    records = records_of(folder)
    records["images"][0]["width"] = 480
    write(folder, records)
    with pytest.raises(ValueError, match=r"0\.png is 240 x 180 .* says 480 x 180"):
        read_coco(folder)


def test_a_photo_that_is_turned_by_its_exif_tag_has_its_upright_size(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(squares(0).image).save(folder / "images" / "0.png", exif=exif)
    with pytest.raises(ValueError, match="is 180 x 240 pixels upright"):
        read_coco(folder)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"images": [{}], "categories": [], "annotations": []}', "\x00"],
)
def test_json_that_is_not_coco_is_refused_in_words(folder, text):
    (folder / "instances.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"instances\.json is not in COCO's format"):
        read_coco(folder)


@pytest.mark.parametrize(
    "wrong", [{"category_id": 4}, {"image_id": 4}, {"bbox": [1, 2, 3]}, {"bbox": "here"}]
)
def test_an_annotation_that_fits_nothing_is_refused_in_words(folder, wrong):
    records = records_of(folder)
    records["annotations"][0] |= wrong
    write(folder, records)
    with pytest.raises(ValueError, match="not in COCO's format"):
        read_coco(folder)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder that defines an encoder."""
    tests = Path(__file__).parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tests), *sys.path])
    (tmp_path / "my_towers.py").write_text(
        "from colours import ColourEncoder\n"
        "ready = ColourEncoder()\n"
        "class Half:\n    image_size = 32\n"
        "class Broken:\n    def __init__(self):\n        raise OSError('no weights')\n",
        encoding="utf-8",
    )
    yield "my_towers"
    sys.modules.pop("my_towers", None)


@pytest.mark.parametrize("name", ["ColourEncoder", "ready"])
def test_an_encoder_is_loaded_from_the_current_folder_as_class_or_object(module, name):
    assert load_object(f"{module}:{name}").image_size == 32


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_towers", "module:object"),
        ("no_such_module:Tower", r"no_such_module:Tower cannot be loaded \(ModuleNotFoundError"),
        ("my_towers:Tower", "my_towers:Tower cannot be loaded"),
        ("my_towers:Broken", "no weights"),
        ("my_towers:Half", "it lacks encode_crops, encode_prompts, logit_scale, mean, std"),
    ],
)
def test_what_is_no_encoder_is_refused_in_words(module, spec, message):
    with pytest.raises(ValueError, match=message):
        load_object(spec)


@pytest.mark.skipif(not (SHARED / "photos").is_dir(), reason="needs photos beside the project")
def test_real_photos_are_measured_with_an_encoder_from_elsewhere(monkeypatch):
    pytest.importorskip("onnxruntime", reason="the photo encoder runs on onnxruntime")
    monkeypatch.chdir(SHARED / "photo_encoder")
    samples = read_coco(SHARED / "photos")
    assert len(samples) == 49
    assert sum(len(sample.truth.labels) for sample in samples) == 495
    assert {len(sample.truth.prompts) for sample in samples} == {80}
    encoder = load_object("photo_encoder:PhotoEncoder")
    assert run(samples[:2], Localizer(encoder))["presence_auc"] > 0.75
