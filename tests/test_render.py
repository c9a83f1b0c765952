"""What overlays show: the photo, where the map is high, boxes, labels, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from PIL import Image

from localize import render
from localize.render import legend, lettering
from localize.render.colours import PALETTE, colour_of

PHOTO = np.random.default_rng(0).integers(60, 120, (480, 640, 3), np.uint8)
NO_BOXES: dict[str, list[object]] = {"xyxy": [], "scores": []}
NO_LABELS: dict[str, list[object]] = {**NO_BOXES, "labels": []}

# What the green-blind and the red-blind see, in linear RGB: Machado, Oliveira and Fernandes 2009,
# "A Physiologically-based Model for Simulation of Color Vision Deficiency", at severity 1.
GREEN_BLIND = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
RED_BLIND = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
ORDINARY = np.eye(3)


def pixels_of(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def chroma(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=-1) - pixels.min(axis=-1)


def lab(colours: np.ndarray, sight: object = ORDINARY) -> np.ndarray:
    """CIE L*a*b* of sRGB colours (..., 3) in [0, 255], by ordinary or by colour-blind sight."""
    part = np.asarray(colours) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(sight).T, 0, 1)
    seen = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    flat = seen.reshape(1, -1, 3).astype(np.float32)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(seen.shape)


def seen_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """How far two colours in CIE L*a*b* are apart to the eye: CIEDE2000, after Sharma, Wu and Dalal
    2005. (The plain distance makes far too much of differences among saturated blues.)"""
    chroma = [math.hypot(a, b) for _, a, b in (one, other)]
    grey = 0.5 * (1 - _of_25(sum(chroma) / 2))
    lightness = [each[0] for each in (one, other)]
    vivid = [math.hypot((1 + grey) * a, b) for _, a, b in (one, other)]
    hues = [math.degrees(math.atan2(b, (1 + grey) * a)) % 360 for _, a, b in (one, other)]
    turn = (hues[1] - hues[0] + 180) % 360 - 180 if all(vivid) else 0.0
    mean_vivid, mean_hue = sum(vivid) / 2, hues[0] + turn / 2 if all(vivid) else sum(hues)
    weight = 1 + sum(
        factor * math.cos(math.radians(times * mean_hue + shift))
        for factor, times, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    )
    off = (sum(lightness) / 2 - 50) ** 2
    lighter = (lightness[1] - lightness[0]) / (1 + 0.015 * off / math.sqrt(20 + off))
    more_vivid = (vivid[1] - vivid[0]) / (1 + 0.045 * mean_vivid)
    chord = 2 * math.sqrt(vivid[0] * vivid[1]) * math.sin(math.radians(turn / 2))
    turned = chord / (1 + 0.015 * mean_vivid * weight)
    blues = math.radians(60 * math.exp(-(((mean_hue % 360 - 275) / 25) ** 2)))
    rotation = -2 * _of_25(mean_vivid) * math.sin(blues)
    return math.sqrt(lighter**2 + more_vivid**2 + turned**2 + rotation * more_vivid * turned)


def _of_25(chroma: float) -> float:
    return math.sqrt(chroma**7 / (chroma**7 + 25**7))


def overlay(relevance: object, photo: np.ndarray = PHOTO, **options: object) -> np.ndarray:
    return pixels_of(render.overlay(photo, relevance, **{**NO_BOXES, **options}))  # type: ignore[arg-type]


def test_where_nothing_is_relevant_the_photo_is_dim_and_without_colour_but_to_be_made_out() -> None:
    steps = np.linspace(0, 255, 640).astype(np.uint8)
    photo = np.stack([np.tile(steps, (480, 1))] * 3, axis=-1)
    photo[:240] = photo[:240, ::-1] // 2 + np.array([120, 0, 0], np.uint8)
    drawn = overlay(np.zeros((12, 16), np.float32), photo)[:480, :640]
    assert chroma(drawn).max() < 40
    assert drawn.max() < 140
    assert (np.diff(drawn[300].sum(axis=1)) >= 0).all()
    assert drawn[300, -1].sum() - drawn[300, 0].sum() > 200


def test_the_more_relevant_the_more_colour_on_any_ground_and_then_the_lighter() -> None:
    for grey in (0, 60, 120, 180, 255):
        photo = np.full((480, 640, 3), grey, np.uint8)
        colours = [
            lab(overlay(np.full((3, 4), value, np.float32), photo)[100, 100])
            for value in (0, 0.15, 0.3, 0.5, 0.75, 1)
        ]
        distances = [float(np.linalg.norm(colour - colours[0])) for colour in colours]
        assert distances[:4] == sorted(distances[:4])
        assert min(distances[4:]) > 60
        lightness = [float(colour[0]) for colour in colours[2:]]
        assert lightness == sorted(lightness)


@pytest.mark.parametrize("sight", [ORDINARY, GREEN_BLIND, RED_BLIND])
@pytest.mark.parametrize("grey", [0, 60, 120, 180, 255])
def test_what_is_there_stands_out_from_any_ground_to_the_colour_blind_too(
    grey: int, sight: object
) -> None:
    photo = np.full((480, 640, 3), grey, np.uint8)
    absent, present = (
        lab(overlay(np.full((2, 2), value), photo)[100, 100], sight) for value in (0.02, 0.5)
    )
    assert np.linalg.norm(present - absent) >= 50


def test_in_grey_what_is_there_is_lighter_than_all_of_the_photo() -> None:
    white, black = np.full((480, 640, 3), 255, np.uint8), np.zeros((480, 640, 3), np.uint8)
    lightest = lab(overlay(np.zeros((2, 2)), white)[100, 100])[0]
    levels = [lab(overlay(np.full((2, 2), value), black)[100, 100])[0] for value in (0.5, 0.75, 1)]
    assert lightest < levels[0] < levels[1] < levels[2]


def test_the_heat_is_where_the_map_is_high_at_any_resolution_of_the_map() -> None:
    ground = overlay(np.zeros((6, 8)))[:480]
    for height, width in ((6, 8), (48, 64), (480, 640), (60, 20)):
        relevance = np.zeros((height, width), np.float32)
        relevance[: height // 2, width // 2 :] = 1
        change = np.abs(overlay(relevance)[:480] - ground).mean(axis=2)
        assert change[:200, 360:].min() > 40
        assert change[280:].max() == 0
        assert change[:, :240].max() == 0


def test_the_same_relevance_has_the_same_colour_in_every_overlay() -> None:
    alone = np.full((4, 4), 0.3, np.float32)
    beside_more = alone.copy()
    beside_more[0, 0] = 1
    np.testing.assert_array_equal(overlay(alone)[300:480], overlay(beside_more)[300:480])


def test_maps_with_nan_or_values_out_of_range_are_drawn_as_within_it() -> None:
    relevance = np.array([[np.nan, -5], [7, np.inf]], np.float32)
    expected = np.array([[0, 0], [1, 1]], np.float32)
    np.testing.assert_array_equal(overlay(relevance), overlay(expected))


def test_a_box_is_outlined_where_it_is_and_its_inside_left_alone() -> None:
    drawn = overlay(None, xyxy=[(100, 200, 300, 400)], scores=[0.9])
    white = (drawn[:480] == 255).all(axis=2)
    for x, y in ((101, 300), (298, 300), (200, 201), (200, 398)):
        assert white[y, x]
    inside = np.s_[210:390, 110:290]
    np.testing.assert_array_equal(drawn[inside], PHOTO[inside])


@pytest.mark.parametrize("ground", [0, 255])
def test_a_box_shows_on_black_and_on_white(ground: int) -> None:
    photo = np.full((480, 640, 3), ground, np.uint8)
    drawn = overlay(None, photo, xyxy=[(100, 200, 300, 400)], scores=[0.9])
    edge = drawn[300, 95:110]
    assert {0, 255} <= set(edge.ravel().tolist())


def test_boxes_are_scaled_with_the_picture() -> None:
    photo = np.full((3000, 4000, 3), 90, np.uint8)
    image = render.overlay(photo, None, xyxy=[(1000, 1500, 3000, 2500)], scores=[1.0])
    drawn = np.asarray(image)
    assert image.size == (1600, 1200)
    assert (drawn[800, 402] == 255).all()
    assert (drawn[800, 1197] == 255).all()
    assert (drawn[700:900, 420:1180] == 90).all()


def named_boxes(photo: np.ndarray, xyxy: list[tuple[float, ...]], name: str) -> np.ndarray:
    count = len(xyxy)
    image = render.boxes_overlay(photo, xyxy=xyxy, labels=[name] * count, scores=[0.5] * count)
    return pixels_of(image)[: len(photo), : photo.shape[1]]


def test_labels_are_inside_the_picture_even_for_boxes_at_its_edges() -> None:
    corners = [(0, 0, 60, 40), (580, 0, 640, 40), (0, 440, 60, 480), (580, 440, 640, 480)]
    for box in corners:
        plain = named_boxes(PHOTO, [box], "")
        named = named_boxes(PHOTO, [box], "a long name")
        assert (plain != named).any(axis=2).sum() > 800


def test_labels_of_boxes_at_one_place_do_not_cover_each_other() -> None:
    box = (200, 200, 400, 300)
    areas = []
    for count in (1, 2, 3, 4):
        drawn = overlay(None, xyxy=[box] * count, scores=[0.5] * count)
        areas.append((drawn[:480] == 255).all(axis=2).sum())
    first = areas[1] - areas[0]
    assert first > 300
    np.testing.assert_allclose(np.diff(areas), first, rtol=0.02)


def test_hundreds_of_boxes_at_one_place_are_drawn() -> None:
    boxes: list[tuple[float, ...]] = [(100, 100, 200, 200)] * 300
    named_boxes(PHOTO, boxes, "thing")


def test_a_label_says_the_score_in_percent_and_the_prompt_only_where_others_are_asked() -> None:
    box: list[tuple[float, ...]] = [(100, 200, 300, 400)]
    alone = [overlay(None, xyxy=box, scores=[0.5], title=title)[:480] for title in ("cat", "dog")]
    np.testing.assert_array_equal(*alone)
    assert not np.array_equal(alone[0], overlay(None, xyxy=box, scores=[0.6])[:480])
    among = [named_boxes(PHOTO, box, name) for name in ("cat", "dog")]
    assert not np.array_equal(*among)


@pytest.mark.parametrize("shape", [(200, 1600), (1600, 200), (100, 1600)])
def test_the_label_of_a_small_thing_in_a_panorama_leaves_the_thing_to_be_seen(
    shape: tuple[int, int],
) -> None:
    photo = np.full((*shape, 3), 90, np.uint8)
    left, top = shape[1] // 2, shape[0] // 2
    thing = [(left, top, left + 30, top + 30)]
    drawn = pixels_of(render.boxes_overlay(photo, xyxy=thing, labels=["a thing"], scores=[0.5]))
    x, y = (max(0, (least - side) // 2) for least, side in ((320, shape[1]), (160, shape[0])))
    drawn = drawn[y : y + shape[0], x : x + shape[1]]
    assert (drawn[top + 5 : top + 25, left + 5 : left + 25] == 90).all()
    plain = pixels_of(render.boxes_overlay(photo, xyxy=[], labels=[], scores=[]))
    assert (drawn != plain[y : y + shape[0], x : x + shape[1]]).any(axis=2).mean() < 0.05


@pytest.mark.parametrize(
    "box", [(-50, -50, 700, 500), (10, 10, 10, 10), (639, 479, 640, 480), (50, 60, 20, 30)]
)
def test_boxes_without_area_or_beyond_the_picture_are_drawn_within_it(
    box: tuple[float, float, float, float],
) -> None:
    drawn = overlay(None, xyxy=[box], scores=[0.5])
    assert drawn.shape == (480, 640, 3)
    assert (drawn != PHOTO).any()


def test_boxes_without_a_label_each_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        render.overlay(PHOTO, None, xyxy=[(1, 2, 3, 4)], scores=[])


@pytest.mark.parametrize(
    "shape", [(1, 1), (16, 16), (1, 5000), (5000, 1), (3, 20000), (2000, 3000), (300, 900)]
)
def test_pictures_of_any_shape_have_a_readable_overlay(shape: tuple[int, int]) -> None:
    height, width = shape
    image = render.overlay(
        np.full((height, width, 3), 90, np.uint8),
        np.ones((4, 4), np.float32),
        xyxy=[(0, 0, width / 2, height / 2)],
        scores=[0.9],
        title="a cat",
        presence=0.97,
    )
    assert 320 <= max(image.size) <= 2000
    assert min(image.size) >= 160
    legend = np.asarray(image)[-64:]
    assert (legend < 100).any()


def test_the_legend_is_below_the_picture_and_grows_with_what_it_says() -> None:
    plain = render.overlay(PHOTO, None, **NO_BOXES)
    assert plain.size == (640, 480)
    titled = render.overlay(PHOTO, None, **NO_BOXES, title="a cat")
    sure = render.overlay(PHOTO, None, **NO_BOXES, title="a cat", presence=0.9)
    heated = render.overlay(PHOTO, np.zeros((2, 2)), **NO_BOXES, title="a cat", presence=0.9)
    long = render.overlay(PHOTO, None, **NO_BOXES, title="a very fluffy cat " * 8)
    assert 480 < titled.height < sure.height <= heated.height
    assert titled.height < long.height < 640
    np.testing.assert_array_equal(pixels_of(sure)[:480], PHOTO)


def test_the_colour_bar_shows_the_colours_of_the_map() -> None:
    photo = np.full((480, 640, 3), 160, np.uint8)
    legend = overlay(np.zeros((4, 4), np.float32), photo)[480:]
    low, high = (
        overlay(np.full((4, 4), 0.5), photo)[100, 100],
        overlay(np.ones((4, 4)), photo)[0, 0],
    )
    for colour in (low, high):
        assert np.abs(legend - colour).sum(axis=2).min() <= 12


def test_what_is_there_and_what_is_not_differ_in_the_legend() -> None:
    there = overlay(None, presence=0.9)[480:]
    absent = overlay(None, presence=0.1)[480:]
    assert chroma(there).max() > 60
    assert chroma(absent).max() < 20


def test_a_prompt_with_a_box_is_never_called_absent() -> None:
    unsure = overlay(None, xyxy=[(9, 9, 99, 99)], scores=[0.4], presence=0.4)[480:]
    absent = overlay(None, presence=0.4)[480:]
    assert chroma(unsure).max() > 60
    assert chroma(absent).max() < 20


def test_presence_is_never_rounded_to_certainty() -> None:
    assert not np.array_equal(overlay(None, presence=1.0), overlay(None, presence=0.999))


def test_the_photo_is_as_it_is_within_boxes_and_darker_with_less_colour_elsewhere() -> None:
    image = render.boxes_overlay(
        PHOTO, xyxy=[(100, 100, 300, 300)], labels=["cat"], scores=[0.9], prompts=["cat"]
    )
    drawn = pixels_of(image)
    inside, outside = np.s_[130:270, 130:270], np.s_[320:480, 320:640]
    np.testing.assert_array_equal(drawn[inside], PHOTO[inside])
    assert drawn[outside].mean() < 0.9 * PHOTO[outside].mean()
    assert chroma(drawn[outside]).mean() < 0.6 * chroma(PHOTO[outside].astype(int)).mean()


def test_each_prompt_has_its_colour_in_boxes_and_legend() -> None:
    boxes = [(50, 50, 200, 200), (300, 100, 500, 400), (100, 300, 250, 450)]
    grey = np.full((480, 640, 3), 90, np.uint8)
    image = render.boxes_overlay(
        grey, xyxy=boxes, labels=["cat", "dog", "cat"], scores=[0.9, 0.8, 0.7]
    )
    drawn = pixels_of(image)
    cat, dog, cat_again = drawn[100, 51], drawn[200, 301], drawn[400, 101]
    assert (cat == cat_again).all()
    assert np.abs(cat - dog).sum() > 60
    for colour in (cat, dog):
        assert (drawn[480:] == colour).all(axis=2).sum() > 100


def test_any_two_of_thirty_colours_can_be_told_apart_and_the_first_ones_by_the_colour_blind() -> (
    None
):
    def least_difference(count: int, sight: object) -> float:
        colours = lab(np.array([colour_of(index) for index in range(count)]), sight)
        first, second = np.triu_indices(count, 1)
        return min(map(seen_difference, colours[first].tolist(), colours[second].tolist()))

    assert len(PALETTE) == render.LEGEND_ENTRIES
    assert least_difference(12, ORDINARY) >= 20
    assert least_difference(30, ORDINARY) >= 12
    for sight in (GREEN_BLIND, RED_BLIND):
        assert least_difference(12, sight) >= 11
        assert least_difference(30, sight) >= 6


def test_differences_of_colours_are_those_that_are_published() -> None:
    # Of the table in Sharma, Wu and Dalal 2005, pairs 1, 17 and 25.
    for first, second, published in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ):
        assert seen_difference(first, second) == pytest.approx(published, abs=1e-4)


def test_a_prompt_has_the_same_colour_whatever_is_found() -> None:
    prompts = ["cat", "dog", "bird"]
    box: list[tuple[float, ...]] = [(100, 100, 300, 300)]
    first = render.boxes_overlay(PHOTO, xyxy=box, labels=["bird"], scores=[1], prompts=prompts)
    both = render.boxes_overlay(
        PHOTO, xyxy=box + box, labels=["bird", "cat"], scores=[1, 0.9], prompts=prompts
    )
    assert (pixels_of(first)[200, 101] == pixels_of(both)[200, 101]).all()


def test_prompts_that_were_not_found_are_in_the_legend_without_colour() -> None:
    grey = np.full((480, 640, 3), 90, np.uint8)
    for presence in ([0.01, 0.02], [0.2, 0.3]):
        image = render.boxes_overlay(grey, **NO_LABELS, prompts=["cat", "dog"], presence=presence)
        drawn = pixels_of(image)
        assert (drawn[:480] == drawn[0, 0]).all()
        assert drawn.shape[0] > 490
        assert chroma(drawn[480:]).max() < 20
        assert drawn[480:].min() < 60


def test_thousands_of_prompts_make_no_endless_legend() -> None:
    prompts = [f"thing number {number}" for number in range(10_000)]
    image = render.boxes_overlay(PHOTO, **NO_LABELS, prompts=prompts)
    assert image.height < 1200


LONG = "a person in a yellow raincoat who is walking a small brown dog along the beach"


@pytest.mark.parametrize("width", [320, 640, 1600])
@pytest.mark.parametrize("count", [1, 8, 30])
def test_legends_say_how_sure_it_is_of_each_prompt_however_long_and_many(
    width: int, count: int
) -> None:
    photo = np.full((width * 3 // 4, width, 3), 90, np.uint8)
    prompts = [f"{number} {LONG if number % 3 else 'cup'}" for number in range(count)]

    def legend_with(presence: float) -> np.ndarray:
        sure = [*[0.6] * (count - 1), presence]
        image = render.boxes_overlay(photo, **NO_LABELS, prompts=prompts, presence=sure)
        assert image.width == width
        return pixels_of(image)[len(photo) :]

    likely, likelier = legend_with(0.61), legend_with(0.62)
    assert likely.shape == likelier.shape
    assert (likely != likelier).any()
    assert (likely[:, :10] == 255).all()
    assert (likely[:, -10:] == 255).all()


def test_a_legend_of_short_names_is_in_columns_that_are_all_filled() -> None:
    mark = Image.new("RGBA", (20, 20), "black")
    entries = [legend.Entry(mark, f"thing {number}", "here (90 %)") for number in range(12)]
    image = legend.columns(entries, 1500, 20)
    marks = (np.asarray(image)[:, :, 3] == 255) & (np.asarray(image)[:, :, 0] == 0)
    filled = marks.reshape(-1, 30, image.width).sum(axis=(1, 2))
    assert 2 <= len(filled) <= 4
    assert (filled[:-1] == filled[0]).all()
    assert filled.sum() >= 12 * 400


TEXTS = [
    "a cat",
    "猫が二匹",
    "قطة سوداء",
    "नमस्ते बिल्ली",
    "🐱 cat 2",
    "👨‍👩‍👧",
    "naïve café",
    "\U00012000",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_in_any_script_is_drawn_with_fonts_that_have_it_or_as_code_points(
    text: str,
) -> None:
    for font, piece in lettering.runs(text):
        for char in piece.strip():
            assert lettering._covers(font, char), (font, char)
    written = "".join(piece for _, piece in lettering.runs(text))
    for char in text.replace(" ", "").replace("\u200d", ""):
        assert char in written or f"U+{ord(char):04X}" in written
    assert lettering.line(text, 20, (0, 0, 0)).getbbox() is not None


def test_a_character_that_no_font_has_is_written_as_its_code_point() -> None:
    with pytest.warns(UserWarning, match="no font of this machine"):
        assert lettering.runs("\ue123")[0][1].strip() == "U+E123"


def test_marks_stay_with_the_letter_they_belong_to() -> None:
    for text in ("q\u0323\u0307a", "न\u094dत"):
        for _, piece in lettering.runs(text):
            assert not piece.strip().startswith(("\u0323", "\u0307", "\u094d"))


def test_a_text_from_right_to_left_in_two_fonts_has_its_first_piece_at_the_right() -> None:
    assert lettering.as_drawn([("a.ttf", "قطة"), ("b.ttf", " 2")]) == [
        ("b.ttf", "2 "),
        ("a.ttf", "قطة"),
    ]
    plain = [("b.ttf", "cat "), ("a.ttf", "قطة")]
    assert lettering.as_drawn(plain) == plain


@pytest.mark.parametrize(
    "text", [LONG, "黄色いレインコートを着て犬と海岸を散歩している人", "word " * 400]
)
def test_a_paragraph_has_all_of_a_text_on_lines_within_its_width_and_at_most_so_many(
    text: str,
) -> None:
    lines = lettering.paragraph(text, 20, (0, 0, 0), 330, 3)
    assert 2 <= len(lines) <= 3
    assert all(line.width <= 330 for line in lines)
    whole = lettering.width(text, 20)
    if whole < 900:
        assert sum(line.width for line in lines) > 0.9 * whole


def test_digits_beside_an_emoji_are_written_in_letters() -> None:
    fonts = dict(reversed(run) for run in lettering.runs("🐱 2"))
    assert any("2" in piece and "moji" not in font for piece, font in fonts.items())


@pytest.mark.parametrize("text", ["a" * 5000, "猫" * 5000, "word " * 1000, "🐱" * 400])
def test_a_long_text_is_cut_to_its_room(text: str) -> None:
    drawn = lettering.line(text, 20, (0, 0, 0), max_width=200)
    assert 60 < drawn.width <= 200
    assert drawn.height == 30


@pytest.mark.parametrize("text", ["", "   ", "\n", "\x00\x1b[31m", "\udcff", "\u202e", "\u200d"])
def test_texts_with_nothing_to_show_are_drawn(text: str) -> None:
    image = render.overlay(
        PHOTO, None, xyxy=[(10, 50, 90, 90)], scores=[0.5], title=text, presence=1
    )
    assert image.width == 640
    named_boxes(PHOTO, [(10, 50, 90, 90)], text)
