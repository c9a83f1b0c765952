"""Scenes: what the generator promises about its pictures and boxes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from localize.evaluation import scenes
from localize.evaluation.scenes import Scene, concepts, demo_scene, make_scene

SEEDS = range(500, 540)


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [make_scene(seed) for seed in SEEDS]


def test_a_seed_always_gives_the_same_scene(drawn: list[Scene]) -> None:
    again = make_scene(SEEDS[0])
    assert np.array_equal(again.image, drawn[0].image)
    assert again.objects == drawn[0].objects
    assert again.absent == drawn[0].absent


def test_a_seed_gives_the_scene_it_gave_when_figures_were_published() -> None:
    scene = make_scene(7, (640, 480))
    assert scene.objects == (
        ("peach", (100, 122, 183, 208)),
        ("shopping cart", (533, 74, 614, 187)),
        ("bone", (366, 303, 514, 419)),
    )
    assert scene.absent == ("lollipop", "shower", "chess pawn")
    # Pillow's builds may round a channel of a pixel up or down: compare what a person sees.
    quarters = scene.image.reshape(2, 240, 2, 320, 3).mean((1, 3))
    expected = [[[188, 177, 180], [179, 176, 169]], [[184, 185, 140], [160, 156, 146]]]
    assert np.abs(quarters - expected).max() < 1.5


def test_different_seeds_give_different_scenes(drawn: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in drawn}) == len(drawn)


def test_scenes_are_rgb_pictures_of_the_size_asked_for() -> None:
    for width, height in ((640, 480), (300, 900), (1000, 200), (64, 64)):
        image = make_scene(1, (width, height)).image
        assert image.shape == (height, width, 3)
        assert image.dtype == np.uint8


def test_without_a_size_scenes_take_many_shapes_and_mostly_the_default(drawn: list[Scene]) -> None:
    shapes = [scene.image.shape[:2] for scene in drawn]
    assert shapes.count((480, 640)) > len(shapes) / 4
    assert len(set(shapes)) > len(shapes) / 4


def test_a_size_below_64_pixels_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="at least 64 x 64 pixels, not 63 x 100"):
        make_scene(1, (63, 100))


def test_scenes_hold_two_to_seven_objects_of_known_names(drawn: list[Scene]) -> None:
    known = {concept.name for concept in concepts()}
    counts = [len(scene.objects) for scene in drawn]
    assert min(counts) >= 2
    assert max(counts) <= 7
    assert all(name in known for scene in drawn for name, _ in scene.objects)


def test_boxes_lie_inside_the_picture_and_span_a_tenth_to_a_half_of_its_short_side(
    drawn: list[Scene],
) -> None:
    for scene in drawn:
        height, width = scene.image.shape[:2]
        for _, (left, top, right, bottom) in scene.objects:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            share = max(right - left, bottom - top) / min(width, height)
            assert 0.08 <= share <= 0.51


def test_small_and_large_objects_both_occur(drawn: list[Scene]) -> None:
    shares = [
        max(box[2] - box[0], box[3] - box[1]) / min(scene.image.shape[:2])
        for scene in drawn
        for _, box in scene.objects
    ]
    assert min(shares) < 0.15
    assert max(shares) > 0.45


def test_a_box_is_tight_around_the_pixels_that_its_glyph_changes() -> None:
    rng = np.random.default_rng(0)
    for concept in concepts()[::40]:
        side = int(rng.integers(30, 200))
        glyph = scenes.place(concept.glyphs[0], side, float(rng.integers(360)), mirror=True)
        alpha = np.asarray(glyph)[..., 3] > 127
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        box = scenes._silhouette(glyph, 10, 20)
        assert box == (10 + columns[0], 20 + rows[0], 11 + columns[-1], 21 + rows[-1])
        assert abs(max(box[2] - box[0], box[3] - box[1]) - side) <= 2


def test_boxes_overlap_in_some_scenes(drawn: list[Scene]) -> None:
    overlaps = 0
    for scene in drawn:
        boxes = [box for _, box in scene.objects]
        for number, a in enumerate(boxes):
            for b in boxes[number + 1 :]:
                wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                overlaps += wide > 0 and high > 0
    assert overlaps > 5


def test_an_object_that_would_hide_over_40_percent_of_another_is_put_elsewhere() -> None:
    square = Image.new("RGBA", (10, 10), (255, 0, 0, 255))
    owner = np.zeros((30, 30), np.int16)
    owner[5:15, 5:15] = 1
    assert not scenes._fits(owner, [100], square, 10, 5)  # would leave 50 of 100 pixels
    assert scenes._fits(owner, [100], square, 12, 5)  # leaves 70
    assert (owner == 1).sum() == 100  # asking draws nothing


def test_absent_names_are_as_many_as_the_present_ones_and_none_of_them(drawn: list[Scene]) -> None:
    for scene in drawn:
        assert len(scene.absent) == len(scene.names) == len(set(scene.absent))
        assert not set(scene.absent) & set(scene.names)


def test_the_vocabulary_has_at_least_400_names_and_no_word_means_two_things() -> None:
    words = [word for concept in concepts() for word in (concept.name, *concept.synonyms)]
    assert len(concepts()) >= 400
    assert len(words) == len(set(words))


def test_every_glyph_shows_something_unlike_every_other() -> None:
    glyphs = [np.asarray(glyph) for concept in concepts() for glyph in concept.glyphs]
    assert all((glyph[..., 3] > 127).mean() > 0.02 for glyph in glyphs)
    assert len({glyph.tobytes() for glyph in glyphs}) == len(glyphs)


def test_backgrounds_are_flat_shaded_and_textured() -> None:
    contrasts = []
    for seed in range(60):
        rng = np.random.Generator(np.random.PCG64(seed))
        contrasts.append(np.asarray(scenes.make_background(rng, 120, 90), float).std((0, 1)).mean())
    assert min(contrasts) < 1
    assert max(contrasts) > 30


def test_the_demo_scene_shows_a_cat_and_a_butterfly_and_no_guitar() -> None:
    scene = demo_scene()
    assert {"cat", "butterfly"} <= set(scene.names)
    assert scene.absent == ("guitar",)
    assert scene.image.shape == (640, 960, 3)


def test_the_licence_of_the_glyphs_lies_beside_them() -> None:
    text = (scenes.GLYPHS / "LICENSE.txt").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in text


def test_every_object_is_shown_inside_its_box(drawn: list[Scene]) -> None:
    for scene in [*drawn[:10], demo_scene()]:
        assert scene.shown.shape == scene.image.shape[:2]
        assert set(np.unique(scene.shown)) <= set(range(-1, len(scene.objects)))
        for number, (_, (left, top, right, bottom)) in enumerate(scene.objects):
            seen = scene.shown == number
            assert seen.any()
            assert seen.sum() == seen[top:bottom, left:right].sum()
