"""The auto-annotation function for CVAT, with the types and the checks of CVAT's own SDK."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from localize import Localizer, Options
from localize.evaluation.scenes import demo_scene

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk")
driver = pytest.importorskip("cvat_sdk.auto_annotation.driver", reason="needs cvat-sdk")
models = pytest.importorskip("cvat_sdk.models", reason="needs cvat-sdk")

MODULE = Path(__file__).parents[1] / "integrations" / "cvat" / "localize_cvat.py"
PROMPTS = ["a bicycle", "a cat", "a butterfly"]


@pytest.fixture(scope="module")
def module() -> Any:
    """The file, loaded as `cvat-cli --function-file` loads it."""
    spec = importlib.util.spec_from_file_location("function", MODULE)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.fixture(scope="module")
def function(module: Any) -> Any:
    return module.create(prompts=", ".join(PROMPTS), model="emoji")


class Context(cvataa.DetectionFunctionContext):  # type: ignore[misc,name-defined]
    """What CVAT tells of a frame."""

    frame_name = "scene.png"
    conv_mask_to_poly = False

    def __init__(self, threshold: float | None):
        self._threshold = threshold

    @property
    def conf_threshold(self) -> float | None:
        return self._threshold


@pytest.mark.parametrize("threshold", [None, 0.5, 1.0])
def test_detect_gives_the_boxes_of_the_localizer_with_the_ids_of_the_spec(
    function: Any, threshold: float | None
) -> None:
    scene = Image.fromarray(demo_scene().image)
    options = Options() if threshold is None else Options(threshold=threshold)
    expected = Localizer.from_pretrained("emoji", options=options).locate(scene, PROMPTS).boxes
    shapes = function.detect(Context(threshold), scene)
    names = {label.id: label.name for label in function.spec.labels}
    assert [(names[each.label_id], tuple(each.points), each.score) for each in shapes] == [
        (box.label, box.xyxy, box.score) for box in expected
    ]
    assert bool(shapes) == (threshold != 1.0)
    assert all(each.type.value == "rectangle" for each in shapes)


def test_cvat_takes_the_function_for_a_task_whose_labels_have_the_same_names(function: Any) -> None:
    labels = [
        models.Label._from_openapi_data(id=7 + n, name=name, type="rectangle", attributes=[])
        for n, name in enumerate(PROMPTS)
    ]
    for label in labels:
        label.sublabels = []
    mapper = driver._AnnotationMapper(
        driver.logging.getLogger("cvat"),
        function.spec.labels,
        labels,
        allow_unmatched_labels=False,
        conv_mask_to_poly=False,
    )
    shapes = function.detect(Context(None), Image.fromarray(demo_scene().image))
    mapper.validate_and_remap(shapes, 3)
    assert shapes
    assert {each.frame for each in shapes} == {3}
    assert {each.label_id for each in shapes} <= {7, 8, 9}


def test_without_a_label_there_is_a_sentence(module: Any) -> None:
    with pytest.raises(ValueError, match="commas"):
        module.create(prompts=" , ", model="emoji")
