"""The page of a run: what it shows, in a real browser, and that nothing breaks out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from localize.report import MAPS, THUMBNAIL_BYTES, sketch
from localize.result import Box, Localization
from localize.runs import REPORT, Run

HOSTILE = (
    "<script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "' onmouseover='window.broken = 1' x='",
    "</title></style></script><script>window.broken = 1</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.broken=1",
    "<!-- --><svg onload=window.broken=1>",
    "two\nlines \u202eturned round",
)


@pytest.fixture
def shown(browser: Any) -> Iterator[Callable[[Path], Any]]:
    """Opens a page from the disk; what goes wrong in it fails the test, and so does a request."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    trouble: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else trouble.append(request.url)
        ),
    )

    def show(path: Path) -> Any:
        page.goto(path.as_uri())
        return page

    yield show
    context.close()
    assert trouble == []


def result(
    path: Path, presence: dict[str, float], boxes: list[tuple[str, float, tuple[float, ...]]]
) -> Localization:
    """What a localizer answers for a picture file. The maps are hot where there are boxes."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    maps = np.zeros((len(presence), 12, 16), np.float32)
    for label, score, _ in boxes:
        maps[list(presence).index(label), 4:8, 4:8] = score
    return Localization(
        pixels=pixels,
        file=path.name,
        model="a model",
        prompts=tuple(presence),
        presence=np.array(list(presence.values()), np.float32),
        maps=maps,
        boxes=[Box(label, score, xyxy) for label, score, xyxy in boxes],  # type: ignore[arg-type]
        source=path,
    )


def picture(path: Path, colour: tuple[int, int, int] = (40, 90, 160)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (160, 120), colour).save(path, "PNG")
    return path


def reported(folder: Path, answers: dict[Path, Callable[[Path], Localization]]) -> Path:
    """The report of a run with these answers."""
    results = {path: answer(path) for path, answer in answers.items()}
    prompts = next(iter(results.values())).prompts
    run = Run(folder, prompts, {}, overlays="none", report=True)
    tasks = run.tasks(results)
    for task in tasks:
        run.write(task, results[task.path])
    run.write_report(tasks, run.summarize(tasks, ["cannot read <b>c.png</b>"], len(tasks), 1.0))
    return folder / REPORT


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Three pictures: two cats and a dog, a doubtful cat, and nothing."""
    photos = tmp_path / "photos"
    return reported(
        tmp_path / "out",
        {
            picture(photos / "a.png"): lambda path: result(
                path,
                {"a cat": 0.95, "a dog": 0.6},
                [
                    ("a cat", 0.9, (40, 40, 80, 80)),
                    ("a dog", 0.5, (0, 0, 40, 30)),
                    ("a cat", 0.3, (100, 60, 160, 120)),
                ],
            ),
            picture(photos / "more" / "b.png"): lambda path: result(
                path, {"a cat": 0.4, "a dog": 0.02}, [("a cat", 0.2, (10, 10, 50, 50))]
            ),
            picture(photos / "c.png"): lambda path: result(
                path, {"a cat": 0.03, "a dog": 0.01}, []
            ),
        },
    )


def settle(page: Any) -> None:
    """Wait until what was done to the page is on the screen."""
    frame = "new Promise((done) => requestAnimationFrame(done))"
    page.evaluate(f"{frame}.then(() => {frame})")


def cards(page: Any) -> list[str]:
    settle(page)
    return page.locator(".card:visible h2").all_text_contents()


def boxes(page: Any) -> int:
    settle(page)
    return page.locator(".card .box:visible").count()


def slide(page: Any, score: float) -> None:
    page.locator("#threshold").fill(str(score))
    settle(page)


def test_boxes_lie_on_their_pictures_where_they_were_found(
    report: Path, shown: Callable[[Path], Any]
) -> None:
    page = shown(report)
    assert cards(page) == ["a.png", "c.png", "more/b.png"]
    card = page.locator(".card").first
    photo, best = (
        card.locator(selector).bounding_box() for selector in (".photo", ".box[data-score='0.9']")
    )
    assert photo["width"] / photo["height"] == pytest.approx(160 / 120, rel=0.01)
    scale = photo["width"] / 160
    assert [
        best["x"] - photo["x"],
        best["y"] - photo["y"],
        best["width"],
        best["height"],
    ] == pytest.approx([40 * scale] * 4, abs=1)
    # The thumbnail is drawn, and in the picture's own colour.
    assert card.locator(".photo").evaluate("(photo) => photo.complete && photo.naturalWidth") == 160
    assert page.locator(".failed li").all_inner_texts() == ["cannot read <b>c.png</b>"]


def test_boxes_vanish_as_the_threshold_moves(report: Path, shown: Callable[[Path], Any]) -> None:
    page = shown(report)
    assert boxes(page) == 4
    slide(page, 0.4)
    assert boxes(page) == 2
    assert page.locator("#shown").inner_text() == "3 of 3 pictures, 2 boxes"
    assert page.locator(".card").filter(has_text="b.png").locator(".none").is_visible()
    slide(page, 0.95)
    assert boxes(page) == 0


def test_pictures_are_chosen_by_prompt_score_and_not_here(
    report: Path, shown: Callable[[Path], Any]
) -> None:
    page = shown(report)
    page.get_by_text("Not here", exact=True).click()
    assert cards(page) == ["c.png"]
    page.locator(".prompt").filter(has_text="a dog").click()
    assert cards(page) == ["c.png", "more/b.png"]
    assert (
        page.locator(".card:visible .none").first.text_content() == "not here (presence 1\u202f%)"
    )
    page.get_by_text("Here", exact=True).click()
    assert cards(page) == ["a.png"]
    assert boxes(page) == 1
    slide(page, 0.6)
    assert cards(page) == []
    assert page.locator("#empty").is_visible()


def test_pictures_are_sorted(report: Path, shown: Callable[[Path], Any]) -> None:
    page = shown(report)
    for order, names in {
        "worst": ["more/b.png", "a.png", "c.png"],
        "best": ["a.png", "more/b.png", "c.png"],
        "name": ["a.png", "c.png", "more/b.png"],
    }.items():
        page.locator("#sort").select_option(order)
        assert cards(page) == names


def test_a_map_shows_while_a_picture_is_pointed_at(
    report: Path, shown: Callable[[Path], Any]
) -> None:
    page = shown(report)
    card = page.locator(".card").first
    assert card.locator(".map:visible").count() == 0
    card.locator(".frame").hover()
    assert card.locator(".map:visible").get_attribute("data-prompt") == "0"
    card.locator(".chip").filter(has_text="a dog").hover()
    assert card.locator(".map:visible").get_attribute("data-prompt") == "1"
    page.locator("h1").hover()
    assert card.locator(".map:visible").count() == 0
    page.locator("#maps").check()
    assert page.locator(".map:visible").count() == 2  # c.png has nothing to show


def test_a_click_shows_the_full_picture_and_the_facts(
    report: Path, shown: Callable[[Path], Any]
) -> None:
    page = shown(report)
    page.locator(".card").first.click()
    viewer = page.locator("#viewer")
    assert viewer.locator("#viewer-name").inner_text() == "a.png"
    assert viewer.locator("#viewer-size").inner_text() == "160 \N{MULTIPLICATION SIGN} 120 pixels"
    full = viewer.locator(".photo[src$='photos/a.png']")
    full.wait_for()
    assert full.evaluate("(photo) => photo.naturalWidth") == 160
    first, second = viewer.locator("#viewer-facts tr").all_inner_texts()
    assert first.split() == "a cat 95 % 90 % 40, 40, 80, 80 30 % 100, 60, 160, 120".split()
    assert "60\u202f%" in second
    assert viewer.locator(".box:visible").count() == 3
    viewer.locator("#next").click()
    assert viewer.locator("#viewer-name").inner_text() == "c.png"
    viewer.locator("#close").click()
    assert not viewer.is_visible()


def test_the_page_shows_its_thumbnail_where_the_picture_is_gone(
    report: Path, shown: Callable[[Path], Any]
) -> None:
    alone = report.parent.parent / "elsewhere" / "page.html"
    alone.parent.mkdir()
    (report.parent.parent / "photos").rename(report.parent.parent / "moved")
    report.rename(alone)
    # A file that is not there is said in the console, which `shown` would take for trouble.
    page = shown(alone)
    page.evaluate("document.querySelectorAll('.card').forEach((c) => { c.dataset.link = ''; })")
    page.locator(".card").first.click()
    assert page.locator("#viewer .photo").get_attribute("src").startswith("data:image/webp")
    assert page.locator("#viewer .box:visible").count() == 3


def test_the_keyboard_is_enough(report: Path, shown: Callable[[Path], Any]) -> None:
    page = shown(report)
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.name") == "c.png"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.locator("#viewer-name").inner_text() == "a.png"
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-name").inner_text() == "c.png"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    page.wait_for_function("document.activeElement.dataset.name === 'c.png'", timeout=9000)
    page.keyboard.press("2")
    assert page.locator(".prompt[aria-pressed=true] .name").inner_text() == "a dog"
    page.keyboard.press("0")
    assert page.locator(".prompt[aria-pressed=true]").count() == 0
    page.keyboard.press("m")
    assert page.locator(".map:visible").count() == 2
    page.keyboard.press("+")
    assert boxes(page) == 3  # from .20 to .25


def test_names_and_prompts_cannot_break_out_of_the_page(
    tmp_path: Path, shown: Callable[[Path], Any]
) -> None:
    photos = tmp_path / "photos"
    files = [name.replace("/", "\u2215") for name in HOSTILE] + [
        "100% #1?.png",
        "undecodable \udcff",
    ]

    def answer(path: Path) -> Localization:
        return result(
            path, dict.fromkeys(HOSTILE, 0.9), [(each, 0.8, (10, 10, 90, 90)) for each in HOSTILE]
        )

    page = shown(reported(tmp_path / "out", {picture(photos / name): answer for name in files}))
    # Each text is there as it is, but for what would not show.
    in_words = [
        text.replace("\n", "\\n").replace("\u202e", "\\u202e").replace("\udcff", "\\udcff")
        for text in HOSTILE
    ]
    assert page.locator(".prompt .name").all_text_contents() == in_words
    assert page.locator("script").count() == 1
    for number in range(len(files)):
        page.locator(".card").nth(number).click()
        page.locator("#viewer .photo:not([src^='data:'])").wait_for()  # whatever the name
        page.locator("#viewer-facts tr").first.hover()
        texts = page.locator("#viewer-facts th").all_text_contents()
        assert sorted(texts) == sorted(in_words)
        page.keyboard.press("Escape")
    names = page.locator(".card h2").all_text_contents()
    assert len(set(names)) == len(files)
    assert any(name.startswith("<script>") for name in names)
    assert page.evaluate("window.broken") is None
    # Even markup that got in could run nothing: the page's own policy forbids it.
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "script-src 'sha256-" in policy
    assert "default-src 'none'" in policy


def test_what_a_page_keeps_of_a_picture_is_small_whatever_it_shows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    prompts = {f"thing {number}": 0.5 for number in range(40)}
    kept = sketch(result(tmp_path / "noise.png", prompts, []))
    assert len(kept["thumbnail"]) <= 4 / 3 * THUMBNAIL_BYTES + 4
    assert len(kept["maps"]) == MAPS
    assert len(kept["thumbnail"]) + sum(map(len, kept["maps"].values())) < 30e6 / 500


def test_maps_are_kept_of_what_is_there_first(tmp_path: Path) -> None:
    presence = {f"thing {number}": number / 40 for number in range(40)}
    found = [("thing 1", 0.1, (0.0, 0.0, 9.0, 9.0))]
    kept = sketch(result(picture(tmp_path / "a.png"), presence, found))
    assert set(kept["maps"]) == {"thing 1", *(f"thing {number}" for number in range(33, 40))}
