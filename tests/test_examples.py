"""The scripts in examples/ do what they say, with the embedded model."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from localize.evaluation.scenes import make_scene

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(monkeypatch, folder, name, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name))


def test_the_heatmap_example_finds_the_stickers_on_the_photo_and_no_guitar(monkeypatch, tmp_path):
    picture = EXAMPLES / "stickers.webp"
    result = run(monkeypatch, tmp_path, "heatmap_overlay.py", picture, "fish", "guitar")["result"]
    assert result.presence[0] > 0.5
    assert result.presence[1] < 0.1
    with Image.open(tmp_path / "stickers.heatmap-1.png") as overlay:
        assert overlay.width == 960
    assert (tmp_path / "stickers.heatmap-2.png").exists()


def test_the_heatmap_example_ends_in_a_sentence_where_there_is_no_picture(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"nowhere\.jpg"):
        run(monkeypatch, tmp_path, "heatmap_overlay.py", "nowhere.jpg", "fish")


def test_the_export_example_names_a_bad_picture_and_writes_the_boxes_of_the_others(
    monkeypatch, tmp_path, capsys
):
    good, bad, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    for path in (good, other):
        Image.fromarray(make_scene(3).image).save(path)
    bad.write_bytes(b"no picture")
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, tmp_path, "export_boxes.py", "a cat", "--images", good, bad, other)
    assert ended.value.code == 1
    assert "b.png" in capsys.readouterr().err
    written = sorted(path.name for path in tmp_path.glob("*.json"))
    assert written == ["a.boxes.json", "c.boxes.json"]
