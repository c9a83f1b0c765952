"""Videos: sampled frames, spans of time, annotated copies, and damaged files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from localize import video
from localize.cli import main
from localize.evaluation.scenes import concepts, place

av = pytest.importorskip("av", reason="needs the extra video")

SIZE = (160, 120)


def film(path: Path, shown: list[bool], rotation: int = 0) -> None:
    """A video of a frame each half second, with a cat in those that are to show it."""
    cat = next(concept for concept in concepts() if concept.name == "cat").glyphs[0]
    glyph = place(cat, 90, 0, mirror=False)
    with video.VideoWriter(path, 0.5) as writer:
        for number, is_here in enumerate(shown):
            canvas = Image.new("RGB", SIZE, (120, 180, 120))
            if is_here:
                canvas.paste(glyph, (40, 15), glyph)
            writer.write(video.Frame(number / 2, np.array(canvas)))


def test_frames_come_at_their_times_one_each_so_many_seconds(tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", [False, True] * 5)
    every_frame = list(video.frames(tmp_path / "clip.mp4", 0.5))
    assert [frame.time for frame in every_frame] == pytest.approx(np.arange(10) / 2, abs=0.01)
    assert all(frame.pixels.shape == (120, 160, 3) for frame in every_frame)
    changes = [bool(frame.pixels.std(axis=(0, 1)).max() > 10) for frame in every_frame]
    assert changes == [False, True] * 5
    some = [frame.time for frame in video.frames(tmp_path / "clip.mp4", 1.2)]
    assert some == pytest.approx([0, 1.5, 2.5, 4.0], abs=0.01)


def test_spans_join_what_follows_on() -> None:
    times = [0.0, 0.5, 1.0, 1.6, 2.0]
    here = [True, True, False, True, True]
    assert video.spans(times, here, 0.5) == [(0.0, 1.0), (1.6, 2.5)]
    assert video.spans([], [], 0.5) == []
    assert video.spans([0.0], [False], 0.5) == []


def test_a_video_gives_an_annotated_one_lines_with_times_and_spans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    film(clip, [False, False, True, True, True, False])
    command = ["detect", str(clip), "-p", "a cat", "a bicycle", "--model", "emoji", "-o", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "a cat: 1.0 to 2.5 s" in said
    assert "a bicycle: not here" in said
    facts = json.loads((out / "clip.mp4.json").read_text())
    assert facts["spans"] == {"a cat": [[1.0, 2.5]], "a bicycle": []}
    rows = [json.loads(line) for line in (out / "clip.mp4.jsonl").read_text().splitlines()]
    assert [row["time"] for row in rows] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert [bool(row["boxes"]) for row in rows] == [False, False, True, True, True, False]
    annotated = list(video.frames(out / "clip.mp4.boxes.mp4", 0.5))
    assert [frame.time for frame in annotated] == pytest.approx(np.arange(6) / 2, abs=0.01)
    before = (out / "clip.mp4.json").stat().st_mtime_ns
    assert main([*command, "--resume", "--quiet"]) == 0
    assert (out / "clip.mp4.json").stat().st_mtime_ns == before
    assert main([*command, "--resume", "--quiet", "--every", "1"]) == 0
    assert json.loads((out / "clip.mp4.json").read_text())["frames"] == 3


def test_videos_are_counted_and_named_beside_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    film(films / "cat.mp4", [False, True, True])
    film(films / "none.mp4", [False, False])
    film(tmp_path / "one.mp4", [True])
    (frame,) = video.frames(tmp_path / "one.mp4", 1)
    Image.fromarray(frame.pixels).save(films / "photo.png")
    command = ["detect", str(films), "-p", "a cat", "a bicycle", "--model", "emoji", "-o", str(out)]
    assert main([*command, "--resume"]) == 0
    *_, cat, absent, _, last = capsys.readouterr().out.splitlines()
    assert cat == "a cat: 1 box in 1 image and 1.0 s of 1 video, not here in 1"
    assert absent == "not here in any image or video: a bicycle"
    assert last == f"The answers for 1 image and 2 videos are in {out}."
    told = json.loads((out / "run.json").read_text())
    assert (told["images"], told["videos"]) == (1, 2)
    assert told["found"][0] == {
        "prompt": "a cat", "images": 1, "boxes": 1, "videos": 1, "seconds": 1, "not_here": 1
    }  # fmt: skip
    for wanted, names in (("matching", ["cat.mp4", "photo.png"]), ("missing", ["none.mp4"])):
        assert main([*command, "--resume", "--print", wanted]) == 0
        assert capsys.readouterr().out.splitlines() == [str(films / name) for name in names]


def test_the_report_shows_the_frames_with_the_surest_boxes_and_when_each_prompt_is_there(
    tmp_path: Path,
) -> None:
    film(tmp_path / "cat.mp4", [False, True, True, False])
    film(tmp_path / "none.mp4", [False, False])
    out = tmp_path / "out"
    words = ["-p", "a cat", "a bicycle", "--model", "emoji", "--report", "--quiet", "-o", str(out)]
    assert main(["detect", str(tmp_path / "cat.mp4"), str(tmp_path / "none.mp4"), *words]) == 0
    page = (out / "report.html").read_text("utf-8")
    shown, empty = page.split("<article")[1:]
    assert "a cat: 0.5 to 1.5 s" in shown
    assert 'data-link="cat.mp4.boxes.mp4#t=' in shown
    assert 'class="box"' in shown
    assert re.search(r"<small>at (0\.5|1\.0) s</small>", shown)
    assert 'class="spans"' not in empty
    assert "<small>at 0.0 s</small>" in empty
    assert "2 videos, 2 prompts" in page
    assert "1.0 s of 1 video<" in page
    (out / "report.html").unlink()
    names = [str(tmp_path / name) for name in ("cat.mp4", "none.mp4")]
    assert main(["detect", *names, *words, "--resume"]) == 0
    assert (out / "report.html").read_text("utf-8") == page


def test_a_video_cut_short_ends_in_a_sentence_with_what_was_read_intact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut, out = tmp_path / "whole.mkv", tmp_path / "cut.mkv", tmp_path / "out"
    rng = np.random.default_rng(0)
    with av.open(str(whole), "w") as container:  # noise, so that each frame has some weight
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(40):
            pixels = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    command = ["detect", str(cut), "-p", "a cat", "--model", "emoji", "-o", str(out), "--quiet"]
    assert main([*command, "--every", "2", "--report"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "cut.mkv" in said
    assert "cut short" in said
    facts = json.loads((out / "cut.mkv.json").read_text())
    assert 2 <= facts["frames"] <= 6
    told = json.loads((out / "run.json").read_text())
    assert (told["videos"], told["failed"]) == (1, [facts["problem"]])
    assert (out / "report.html").read_text().count("<article") == 1
    assert main([*command, "--every", "2", "--resume", "--print", "missing"]) == 1
    assert capsys.readouterr().out == ""  # What is behind the cut, nobody knows.
    assert len((out / "cut.mkv.jsonl").read_text().splitlines()) == facts["frames"]
    assert len(list(video.frames(out / "cut.mkv.boxes.mp4", 2))) == facts["frames"]


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)])
def test_what_is_no_video_is_named_and_leaves_nothing(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    clip.write_bytes(content)
    assert main(["detect", str(clip), "-p", "a cat", "--model", "emoji", "-o", str(out)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"cannot read {clip}" in said
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_a_time_between_frames_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for every in ("0", "-1", "nan"):
        command = ["detect", str(tmp_path), "-p", "a cat", "--model", "emoji"]
        assert main([*command, f"--every={every}"]) == 2
        assert "--every must be" in capsys.readouterr().err


def test_a_video_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", [True] * 2)
    turned = tmp_path / "turned.mp4"
    with av.open(str(tmp_path / "clip.mp4")) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = turned.read_bytes()
    # The matrix in the track's header (ISO/IEC 14496-12, 8.3.2): turned by a quarter.
    upright = b"".join(n.to_bytes(4, "big") for n in (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30))
    quarter = b"".join(
        n.to_bytes(4, "big", signed=True) for n in (0, 65536, 0, -65536, 0, 0, 0, 0, 2**30)
    )
    track = data.index(b"tkhd")
    matrix = data.index(upright, track)
    turned.write_bytes(data[:matrix] + quarter + data[matrix + len(upright) :])
    (flat, *_), (up, *_) = (video.frames(path, 1) for path in (tmp_path / "clip.mp4", turned))
    np.testing.assert_array_equal(up.pixels, np.rot90(flat.pixels, -1))
