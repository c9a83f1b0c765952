"""The source of FiftyOne's model zoo, with FiftyOne's own labels, zoo and datasets."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from localize import Localizer, Prompt
from localize.evaluation.scenes import demo_scene

os.environ.setdefault("FIFTYONE_DISABLE_SERVICES", "1")  # Labels and models need no database.
fo = pytest.importorskip("fiftyone", reason="needs fiftyone")

SOURCE = Path(__file__).parents[1] / "integrations" / "fiftyone"
PROMPTS = ["a cat", "a bicycle"]


@pytest.fixture(scope="module")
def module() -> Any:
    """The folder, loaded as FiftyOne's zoo loads it."""
    spec = importlib.util.spec_from_file_location("source", SOURCE / "__init__.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_a_picture_gets_boxes_presence_and_heatmaps_as_fiftyones_labels(module: Any) -> None:
    scene = demo_scene().image
    model = module.load_model("clip-localize/emoji", "", prompts=PROMPTS)
    labels = model.predict(scene)
    expected = Localizer.from_pretrained("emoji").locate(scene, PROMPTS)
    size = np.array([expected.width, expected.height] * 2)
    assert isinstance(labels["boxes"], fo.Detections)
    for box, found in zip(expected.boxes, labels["boxes"].detections, strict=True):
        left, top, width, height = np.array(found.bounding_box) * size
        assert (left, top, left + width, top + height) == pytest.approx(box.xyxy)
        assert (found.label, found.confidence) == (box.label, box.score)
    presence = {each.label: each.confidence for each in labels["presence"].classifications}
    assert presence == dict(zip(PROMPTS, expected.presence.tolist(), strict=True))
    heatmap = labels["heatmap_a_cat"]
    assert isinstance(heatmap, fo.Heatmap)
    assert heatmap.map.max() / heatmap.range[1] == pytest.approx(presence["a cat"], abs=0.003)
    assert labels.keys() == {"boxes", "presence", "heatmap_a_cat", "heatmap_a_bicycle"}


def test_what_the_zoo_passes_on_is_heeded(module: Any) -> None:
    scene = demo_scene().image
    prompt = Prompt.of("pet", any=["cat", "dog"])
    model = module.load_model("clip-localize/emoji", "", prompts=prompt, heatmaps=False)
    (labels,) = model.predict_all([scene])
    assert labels.keys() == {"boxes", "presence"}
    assert [box.label for box in labels["boxes"].detections] == ["pet"]
    model.config.confidence_thresh = 1.0  # As `apply_model(confidence_thresh=1)` sets it.
    assert model.predict(scene)["boxes"].detections == []
    strict = module.load_model("clip-localize/emoji", "", prompts=["a cat"], threshold=1.0)
    assert strict.predict(scene)["boxes"].detections == []
    with pytest.raises(ValueError, match="must not be empty"):
        module.load_model("clip-localize/emoji", "", prompts=[])
    with pytest.raises(ValueError, match="one field"):
        module.load_model("clip-localize/emoji", "", prompts=["a cat", "A-cat"])


# A database in memory, and the source in the zoo's folder.
ON_A_DATASET = """
import json, sys
import mongoengine, mongomock, mongomock.store, pymongo

store = mongomock.store.ServerStore()

class Client(mongomock.MongoClient):
    _closed = False

    def __init__(self, *names, appname=None, **more):
        super().__init__(*names, **more, _store=store)

connect = mongoengine.connect
mongoengine.connect = lambda *names, **more: connect(*names, mongo_client_class=Client, **more)
pymongo.MongoClient = Client

import fiftyone as fo
import fiftyone.zoo as foz

dataset = fo.Dataset("scenes")
dataset.add_samples([fo.Sample(path) for path in sys.argv[1:]])
model = foz.load_zoo_model("clip-localize/emoji", prompts=["a cat", "a bicycle"])
dataset.apply_model(model, label_field="localize", batch_size=2, skip_failures=False)
found = [
    [(box.label, box.bounding_box) for box in sample.localize_boxes.detections]
    + [(each.label, each.confidence) for each in sample.localize_presence.classifications]
    + [("map", list(sample.localize_heatmap_a_cat.map.shape))]
    for sample in dataset
]
print(json.dumps(found))
"""


def test_a_dataset_is_labelled_by_the_zoos_model_a_photo_on_its_side_too(tmp_path: Path) -> None:
    pytest.importorskip("mongomock", reason="needs mongomock, in place of a MongoDB")
    scene, exif = Image.fromarray(demo_scene().image), Image.Exif()
    exif[0x0112] = 6
    scene.save(tmp_path / "scene.png")
    turned = scene.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    shutil.copytree(SOURCE, tmp_path / "zoo" / "clip-localize")
    settings = {
        "DATABASE_URI": "mongodb://localhost",
        "DATABASE_VALIDATION": "false",
        "DISABLE_SERVICES": "0",
        "DO_NOT_TRACK": "true",
        "MODEL_ZOO_DIR": str(tmp_path / "zoo"),
        "REQUIREMENT_ERROR_LEVEL": "2",  # The package need not be installed to be tested.
        "SHOW_PROGRESS_BARS": "false",
    }
    paths = [str(tmp_path / name) for name in ("scene.png", "turned.jpg")]
    done = subprocess.run(
        [sys.executable, "-c", ON_A_DATASET, *paths],
        env=os.environ | {f"FIFTYONE_{name}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    upright, turned_back = json.loads(done.stdout.splitlines()[-1])
    expected = Localizer.from_pretrained("emoji").locate(scene, PROMPTS)
    (cat,) = expected.boxes
    for (label, box), *presence, shape in (upright, turned_back):
        left, top, width, height = np.array(box) * ([expected.width, expected.height] * 2)
        assert label == "a cat"
        assert (left, top, left + width, top + height) == pytest.approx(cat.xyxy, abs=6)
        assert [name for name, _ in presence] == PROMPTS
        assert shape == ["map", list(expected.maps[0].shape)]
