"""What overlays show: the photo, where the map is high, boxes, labels, and what they mean."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from localize import render
from localize.render import lettering

PHOTO = np.random.default_rng(0).integers(60, 120, (480, 640, 3), np.uint8)
NO_BOXES: dict[str, list[object]] = {"xyxy": [], "labels": [], "scores": []}


def pixels_of(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def chroma(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=-1) - pixels.min(axis=-1)


def overlay(relevance: object, photo: np.ndarray = PHOTO, **options: object) -> np.ndarray:
    return pixels_of(render.overlay(photo, relevance, **{**NO_BOXES, **options}))  # type: ignore[arg-type]


def test_where_nothing_is_relevant_the_photo_shows_as_it_is() -> None:
    drawn = overlay(np.zeros((12, 16), np.float32))
    np.testing.assert_array_equal(drawn[:480, :640], PHOTO)


def test_the_more_relevant_the_less_of_the_photo_shows() -> None:
    changes = [
        np.abs(overlay(np.full((3, 4), value, np.float32))[:480] - PHOTO).mean()
        for value in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert changes == sorted(changes)
    assert changes[-1] > changes[0] + 40


def test_the_heat_is_where_the_map_is_high_at_any_resolution_of_the_map() -> None:
    for height, width in ((6, 8), (48, 64), (480, 640), (60, 20)):
        relevance = np.zeros((height, width), np.float32)
        relevance[: height // 2, width // 2 :] = 1
        change = np.abs(overlay(relevance)[:480] - PHOTO).mean(axis=2)
        assert change[:200, 360:].min() > 10
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
    drawn = overlay(None, xyxy=[(100, 200, 300, 400)], labels=["a cat"], scores=[0.9])
    white = (drawn[:480] == 255).all(axis=2)
    for x, y in ((101, 300), (298, 300), (200, 201), (200, 398)):
        assert white[y, x]
    inside = np.s_[210:390, 110:290]
    np.testing.assert_array_equal(drawn[inside], PHOTO[inside])


@pytest.mark.parametrize("ground", [0, 255])
def test_a_box_shows_on_black_and_on_white(ground: int) -> None:
    photo = np.full((480, 640, 3), ground, np.uint8)
    drawn = overlay(None, photo, xyxy=[(100, 200, 300, 400)], labels=[""], scores=[0.9])
    edge = drawn[300, 95:110]
    assert {0, 255} <= set(edge.ravel().tolist())


def test_boxes_are_scaled_with_the_picture() -> None:
    photo = np.full((3000, 4000, 3), 90, np.uint8)
    image = render.overlay(photo, None, xyxy=[(1000, 1500, 3000, 2500)], labels=["x"], scores=[1.0])
    drawn = np.asarray(image)
    assert image.size == (1600, 1200)
    assert (drawn[800, 402] == 255).all()
    assert (drawn[800, 1197] == 255).all()
    assert (drawn[700:900, 420:1180] == 90).all()


def test_labels_are_inside_the_picture_even_for_boxes_at_its_edges() -> None:
    corners = [(0, 0, 60, 40), (580, 0, 640, 40), (0, 440, 60, 480), (580, 440, 640, 480)]
    for box in corners:
        plain = overlay(None, xyxy=[box], labels=[""], scores=[0.5])
        named = overlay(None, xyxy=[box], labels=["a long name"], scores=[0.5])
        changed = (plain != named).any(axis=2)
        assert changed.sum() > 800


def test_labels_of_boxes_at_one_place_do_not_cover_each_other() -> None:
    box = (200, 200, 400, 300)
    areas = []
    for count in (1, 2, 3, 4):
        drawn = overlay(None, xyxy=[box] * count, labels=["a cat"] * count, scores=[0.5] * count)
        areas.append((drawn[:480] == 255).all(axis=2).sum())
    first = areas[1] - areas[0]
    assert first > 500
    np.testing.assert_allclose(np.diff(areas), first, rtol=0.02)


def test_hundreds_of_boxes_at_one_place_are_drawn() -> None:
    boxes = [(100, 100, 200, 200)] * 300
    overlay(None, xyxy=boxes, labels=["thing"] * 300, scores=[0.1] * 300)


@pytest.mark.parametrize(
    "box", [(-50, -50, 700, 500), (10, 10, 10, 10), (639, 479, 640, 480), (50, 60, 20, 30)]
)
def test_boxes_without_area_or_beyond_the_picture_are_drawn_within_it(
    box: tuple[float, float, float, float],
) -> None:
    drawn = overlay(None, xyxy=[box], labels=["x"], scores=[0.5])
    assert drawn.shape == (480, 640, 3)
    assert (drawn != PHOTO).any()


def test_boxes_without_a_label_each_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        render.overlay(PHOTO, None, xyxy=[(1, 2, 3, 4)], labels=[], scores=[0.5])


@pytest.mark.parametrize(
    "shape", [(1, 1), (16, 16), (1, 5000), (5000, 1), (3, 20000), (2000, 3000), (300, 900)]
)
def test_pictures_of_any_shape_have_a_readable_overlay(shape: tuple[int, int]) -> None:
    height, width = shape
    image = render.overlay(
        np.full((height, width, 3), 90, np.uint8),
        np.ones((4, 4), np.float32),
        xyxy=[(0, 0, width / 2, height / 2)],
        labels=["a cat"],
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
    np.testing.assert_array_equal(pixels_of(heated)[:480], PHOTO)


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
    unsure = overlay(None, xyxy=[(9, 9, 99, 99)], labels=["x"], scores=[0.4], presence=0.4)[480:]
    absent = overlay(None, presence=0.4)[480:]
    assert chroma(unsure).max() > 60
    assert chroma(absent).max() < 20


def test_presence_is_never_rounded_to_certainty() -> None:
    legends = [overlay(None, presence=value) for value in (1.0, 0.999, 0.0, 0.001)]
    assert not np.array_equal(legends[0], legends[1])
    assert not np.array_equal(legends[2], legends[3])


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


def test_prompts_that_were_not_found_are_in_the_legend_without_colour() -> None:
    grey = np.full((480, 640, 3), 90, np.uint8)
    image = render.boxes_overlay(grey, **NO_BOXES, prompts=["cat", "dog"], presence=[0.1, 0.2])
    drawn = pixels_of(image)
    np.testing.assert_array_equal(drawn[:480], grey)
    assert drawn.shape[0] > 490
    assert chroma(drawn[480:]).max() < 20
    assert drawn[480:].min() < 60


def test_thousands_of_prompts_make_no_endless_legend() -> None:
    prompts = [f"thing number {number}" for number in range(10_000)]
    image = render.boxes_overlay(PHOTO, **NO_BOXES, prompts=prompts)
    assert image.height < 1200


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
    assert lettering.runs("\ue123")[0][1].strip() == "U+E123"


def test_marks_stay_with_the_letter_they_belong_to() -> None:
    for text in ("q\u0323\u0307a", "न\u094dत"):
        for _, piece in lettering.runs(text):
            assert not piece.strip().startswith(("\u0323", "\u0307", "\u094d"))


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
        PHOTO, None, xyxy=[(10, 50, 90, 90)], labels=[text], scores=[0.5], title=text, presence=1
    )
    assert image.width == 640
