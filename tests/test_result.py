"""Results are plain data with a fixed JSON form."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from localize import Box, Localization
from localize.files import OutputError


@pytest.fixture
def result():
    maps = np.zeros((2, 3, 4), np.float32)
    maps[0, 1, 2] = 1
    return Localization(
        pixels=np.zeros((30, 40, 3), np.uint8),
        file="photo.jpg",
        model="some/model",
        prompts=("a fluffy cat", "ein Hund"),
        presence=np.array([0.97, 0.012345], np.float32),
        maps=maps,
        boxes=[Box("a fluffy cat", 0.912345, (12.4, 4.0, 30.2, 29.6))],
    )


def test_json_has_the_promised_form(result, tmp_path):
    result.save_json(tmp_path / "photo.json")
    assert json.loads((tmp_path / "photo.json").read_text("utf-8")) == {
        "version": 2,
        "image": {"file": "photo.jpg", "width": 40, "height": 30},
        "model": "some/model",
        "prompts": ["a fluffy cat", "ein Hund"],
        "presence": [0.97, 0.0123],
        "boxes": [
            {
                "label": "a fluffy cat",
                "score": 0.9123,
                "box": {"xmin": 12, "ymin": 4, "xmax": 30, "ymax": 30},
            }
        ],
    }


def test_relevance_is_the_map_enlarged_to_the_picture(result):
    relevance = result.relevance
    assert relevance.shape == (2, 30, 40)
    assert relevance.dtype == np.float32
    assert np.unravel_index(relevance[0].argmax(), (30, 40)) in {(14, 24), (15, 25), (14, 25)}
    assert relevance[0].max() == pytest.approx(1, abs=0.1)
    assert not relevance[1].any()


def test_a_result_without_prompts_found_has_no_boxes_and_draws_all_the_same(result):
    assert result.overlay("ein Hund").size[0] > 0
    assert result.boxes_overlay().size[0] > 0


def test_an_overlay_of_a_prompt_that_was_not_asked_is_refused(result):
    with pytest.raises(ValueError, match="a zebra"):
        result.overlay("a zebra")


def test_json_that_cannot_be_written_is_an_error_that_names_the_file(result, tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(OutputError, match="here"):
        result.save_json(tmp_path / "here")


def test_a_notebook_shows_the_boxes_of_several_prompts_and_the_heatmap_of_one(result):
    def shown(result):
        return np.asarray(Image.open(BytesIO(result._repr_png_())))

    np.testing.assert_array_equal(shown(result), np.asarray(result.boxes_overlay()))
    one = replace(result, prompts=result.prompts[:1], presence=result.presence[:1])
    np.testing.assert_array_equal(shown(one), np.asarray(one.overlay("a fluffy cat")))


def test_a_result_is_written_as_a_line_that_says_what_was_found(result):
    assert repr(result) == (
        "<Localization of photo.jpg, 40 x 30: 'a fluffy cat': 1 box, presence 0.97; "
        "'ein Hund': 0 boxes, presence 0.01>"
    )
    many = replace(result, prompts=tuple("prompt") * 50, presence=np.zeros(300), boxes=[])
    assert len(repr(many)) < 500
