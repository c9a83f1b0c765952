"""The published recipes on an encoder that sees colours, against plain loops after their texts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from colours import COLOURS, ColourEncoder
from PIL import Image

from localize.boxes import box_iou
from localize.evaluation.recipes import RECIPES, ClipDiy, PineconeChapter

SQUARE = (96, 96, 240, 240)


def picture(width=480, height=360, xyxy=SQUARE):
    """A red square on grey."""
    pixels = np.full((height, width, 3), COLOURS["grey"], np.uint8)
    left, top, right, bottom = xyxy
    pixels[top:bottom, left:right] = COLOURS["red"]
    return pixels


def best_iou(result, label, xyxy):
    boxes = [box.xyxy for box in result.boxes if box.label == label]
    return box_iou(np.array(boxes), np.array([xyxy], float)).max()


def ask(recipe, pixels, prompts=("red", "blue")):
    return recipe.locate(recipe.encode(pixels), prompts)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("width", "height", "xyxy"),
    [(480, 360, SQUARE), (300, 600, (60, 160, 220, 400)), (40, 30, (8, 8, 20, 20))],
)
def test_a_red_square_is_found_where_it_is(name, width, height, xyxy):
    result = ask(RECIPES[name](ColourEncoder()), picture(width, height, xyxy))
    assert best_iou(result, "red", xyxy) >= 0.3


@pytest.mark.parametrize("name", RECIPES)
def test_a_present_prompt_has_the_higher_presence(name):
    red, blue = ask(RECIPES[name](ColourEncoder()), picture()).presence
    assert red > blue


@pytest.mark.parametrize("name", RECIPES)
def test_an_absent_prompt_gets_boxes_too_and_scores_stay_in_range(name):
    result = ask(RECIPES[name](ColourEncoder()), picture())
    assert {box.label for box in result.boxes} == {"red", "blue"}
    assert all(0 <= box.score <= 1 for box in result.boxes)
    assert [box.score for box in result.boxes] == sorted(
        (box.score for box in result.boxes), reverse=True
    )
    assert result.maps.min() == 0
    assert result.maps.max() == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_picture_of_one_colour_gives_flat_maps_without_failing(name):
    result = ask(RECIPES[name](ColourEncoder()), np.full((30, 40, 3), 128, np.uint8), ("grey",))
    assert np.isfinite(result.maps).all()
    assert np.isfinite(result.presence).all()


@pytest.mark.parametrize(
    ("width", "height", "crops"), [(640, 480, 40), (480, 640, 40), (500, 500, 25), (900, 300, 125)]
)
def test_the_chapter_slides_six_by_six_patches_of_a_tenth_of_the_short_side(width, height, crops):
    assert PineconeChapter(ColourEncoder()).encode(picture(width, height)).num_crops == crops


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (900, 300)])
def test_clip_diy_takes_59_crops_of_any_picture(width, height):
    assert ClipDiy(ColourEncoder()).encode(picture(width, height)).num_crops == 59


def cosine(encoder, pixels, xyxy, prompt):
    """Of one window, cut out and resized by itself, with a prompt."""
    crop = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC, box=xyxy)
    tensor = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None] / 255
    embedding = encoder.encode_crops((tensor - 0.5) / 0.5)[0][0]
    return float(embedding @ encoder.encode_prompts([prompt])[0])


def test_the_chapters_map_and_box_are_those_of_its_loops():
    encoder, pixels = ColourEncoder(), picture(500, 360, (130, 40, 260, 170))
    patch, rows, columns = 36, 10, 13  # the last 32 pixels make no patch
    scores, runs = np.zeros((rows, columns)), np.ones((rows, columns))
    for y in range(rows - 5):
        for x in range(columns - 5):
            window = (x * patch, y * patch, (x + 6) * patch, (y + 6) * patch)
            scores[y : y + 6, x : x + 6] += cosine(encoder, pixels, window, "red")
            runs[y : y + 6, x : x + 6] += 1
    scores /= runs
    presence = (1 + scores.max()) / 2
    for _ in range(3):
        scores = np.clip(scores - scores.mean(), 0, np.inf)
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    ys, xs = np.nonzero(scores > 0.5)
    box = [patch * corner for corner in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]

    result = ask(PineconeChapter(encoder), pixels, ("red",))
    assert len(result.boxes) == 1
    assert result.boxes[0].xyxy == pytest.approx(box)
    assert result.presence[0] == pytest.approx(presence, abs=1e-5)
    height, width = result.maps.shape[1:]
    for y in range(rows):
        for x in range(columns):
            place = (int((y + 0.5) * 36 / 360 * height), int((x + 0.5) * 36 / 500 * width))
            assert result.maps[0][place] == pytest.approx(scores[y, x], abs=1e-4)
    assert (result.maps[0][:, -10:] == 0).all()


def test_clip_diys_map_is_the_mean_of_its_enlarged_scales():
    encoder, pixels = ColourEncoder(), picture(480, 360, (130, 40, 260, 170))
    result = ask(ClipDiy(encoder), pixels, ("red",))
    enlarged = []
    for count, side in ((1, 1), (3, 1 / 2), (7, 1 / 4)):
        grid = torch.zeros(1, 1, count, count)
        for y in range(count):
            for x in range(count):
                left, top = x * side / 2, y * side / 2
                window = (480 * left, 360 * top, 480 * (left + side), 360 * (top + side))
                grid[0, 0, y, x] = cosine(encoder, pixels, window, "red")
        size = result.maps.shape[1:]
        enlarged.append(F.interpolate(grid, size, mode="bilinear", align_corners=False)[0, 0])
    mean = torch.stack(enlarged).mean(0)
    expected = (mean - mean.min()) / (mean.max() - mean.min())
    np.testing.assert_allclose(result.maps[0], expected, atol=1e-4)
    assert result.presence[0] == pytest.approx((1 + float(mean.max())) / 2, abs=1e-5)


def test_clip_diy_boxes_two_things_apart():
    pixels = picture(480, 360, (20, 120, 140, 240))
    pixels[120:240, 340:460] = COLOURS["red"]
    result = ask(ClipDiy(ColourEncoder()), pixels, ("red",))
    assert best_iou(result, "red", (20, 120, 140, 240)) >= 0.3
    assert best_iou(result, "red", (340, 120, 460, 240)) >= 0.3
