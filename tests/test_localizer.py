"""The two verbs, on an encoder small enough to reason about: it sees colours."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from colours import ColourEncoder, unit
from PIL import Image

from localize import Localizer, Options, Prompt
from localize.relevance import relevance_maps


class ColourEncoderWithoutTokens(ColourEncoder):
    def encode_crops(self, crops):
        return super().encode_crops(crops)[0], None


def picture(width=320, height=240, xyxy=(60, 80, 140, 160), colour=(255, 0, 0)):
    pixels = np.full((height, width, 3), 128, np.uint8)
    left, top, right, bottom = xyxy
    pixels[top:bottom, left:right] = colour
    return pixels


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(area) - shared)


@pytest.fixture(params=[ColourEncoder, ColourEncoderWithoutTokens])
def localizer(request):
    return Localizer(request.param())


SHAPES = [
    ((320, 240), (60, 80, 140, 160)),
    ((240, 320), (100, 200, 190, 290)),
    ((1200, 200), (800, 40, 930, 170)),
    ((40, 30), (8, 8, 22, 22)),
]


@pytest.mark.parametrize(("size", "truth"), SHAPES)
def test_the_best_box_is_where_the_thing_is_in_pictures_of_any_shape(localizer, size, truth):
    result = localizer.locate(picture(*size, truth), ["red"])
    assert iou(result.boxes[0].xyxy, truth) > 0.4
    assert result.boxes[0].label == "red"


def test_what_is_not_in_the_picture_gets_no_box_and_a_low_presence(localizer):
    result = localizer.locate(picture(), ["red", "blue"])
    assert [box.label for box in result.boxes if box.label == "blue"] == []
    assert result.presence[0] > 0.8
    assert result.presence[1] < 0.2


def test_a_place_that_is_less_like_the_prompt_than_the_picture_is_has_little_relevance(localizer):
    """A faint red everywhere is no thing, while a full red one stands out of it as before."""
    pixels = picture(xyxy=(60, 80, 140, 160))
    pixels[(pixels == 128).all(2)] = (150, 90, 90)
    found = localizer.locate(pixels, ["red"])
    encoded = localizer.encode(pixels)
    plain = localizer._scores(encoded, localizer.embed_prompts("red"))
    (without,) = relevance_maps(encoded.grids, *plain)
    thing, far = np.s_[45:75, 35:65], np.s_[:, 110:]
    (relevance,) = found.maps
    assert relevance[far].mean() / relevance[thing].mean() < 0.7 * (
        without[far].mean() / without[thing].mean()
    )


def test_two_things_of_one_name_get_two_boxes():
    pixels = picture(xyxy=(20, 80, 90, 150))
    pixels[80:150, 230:300] = (255, 0, 0)
    boxes = Localizer(ColourEncoder()).locate(pixels, ["red"]).boxes
    assert any(iou(box.xyxy, (20, 80, 90, 150)) > 0.4 for box in boxes)
    assert any(iou(box.xyxy, (230, 80, 300, 150)) > 0.4 for box in boxes)


def test_maps_and_presence_have_the_shapes_and_ranges_that_are_promised(localizer):
    result = localizer.locate(picture(), ["red", "blue"])
    assert result.relevance.shape == (2, 240, 320)
    assert result.relevance.dtype == np.float32
    assert 0 <= result.relevance.min() <= result.relevance.max() <= 1
    assert result.presence.shape == (2,)
    assert result.presence.dtype == np.float32


def test_encoding_first_and_asking_later_gives_the_same_answer(localizer):
    encoded = localizer.encode(picture())
    assert encoded.num_crops == 59
    assert len(encoded.boxes) == 59
    later, at_once = localizer.locate(encoded, "red"), localizer.locate(picture(), "red")
    assert later.boxes == at_once.boxes
    assert (later.maps == at_once.maps).all()


def test_superpixels_are_made_once_for_all_that_is_asked_of_a_picture():
    encoded = Localizer(ColourEncoder()).encode(picture())
    first = encoded.superpixels
    assert {each.segments.shape for each in first} == {(120, 160)}
    Localizer(ColourEncoder()).locate(encoded, ["red", "grey"])
    assert encoded.superpixels is first


def test_asking_for_more_does_not_change_an_answer(localizer):
    encoded = localizer.encode(picture())
    alone = localizer.locate(encoded, ["red"])
    among = localizer.locate(encoded, ["blue", "red", "green"])
    assert alone.presence[0] == pytest.approx(among.presence[1], abs=1e-5)
    assert alone.maps[0] == pytest.approx(among.maps[1], abs=1e-5)


def test_batches_across_pictures_give_what_one_picture_alone_gives():
    pictures = [picture(), picture(100, 200, (10, 10, 60, 60)), picture(colour=(0, 0, 255))]
    together = Localizer(ColourEncoder(), Options(batch_size=50)).locate_many(pictures, ["red"])
    for pixels, result in zip(pictures, together, strict=True):
        alone = Localizer(ColourEncoder(), Options(batch_size=1)).locate(pixels, ["red"])
        assert result.pixels is pixels or (result.pixels == pixels).all()
        assert result.maps == pytest.approx(alone.maps, abs=1e-5)


def test_classify_gives_the_softmax_over_the_prompts_of_the_whole_picture(localizer):
    pixels = np.full((60, 60, 3), (255, 0, 0), np.uint8)
    chances = localizer.classify(pixels, ["red", "blue"])
    image = unit(torch.tensor([1.0, -1, -1]))
    texts = torch.stack([unit(torch.tensor([1.0, -1, -1])), unit(torch.tensor([-1.0, -1, 1]))])
    assert chances == pytest.approx(torch.softmax(30 * texts @ image, 0).numpy(), abs=1e-5)


def test_a_label_of_the_users_own_names_the_result(localizer):
    result = localizer.locate(picture(), Prompt("traffic light", ("something red",)))
    assert result.prompts == ("traffic light",)
    assert result.boxes[0].label == "traffic light"


def test_the_users_own_negatives_are_scored_against():
    plain = Localizer(ColourEncoder())
    plain.encoder.negatives = ["blue"]
    wary = Localizer(plain.encoder, Options(negatives=("grey",)))
    plain = Localizer(plain.encoder)
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert wary.locate(grey, "red").presence < plain.locate(grey, "red").presence


def test_asking_for_nothing_is_refused(localizer):
    with pytest.raises(ValueError, match="prompts"):
        localizer.locate(picture(), [])


def test_the_same_input_gives_the_same_result_on_every_run(localizer):
    first, second = (localizer.locate(picture(), ["red", "grey"]) for _ in range(2))
    assert first.boxes == second.boxes
    assert (first.maps == second.maps).all()


def test_no_more_windows_than_the_budget_are_encoded_and_the_thing_is_still_found(localizer):
    thrifty = Localizer(localizer.encoder, Options(stride=0.375, budget=60))
    encoded = thrifty.encode(picture())
    assert encoded.num_crops == len(encoded.boxes) == 60
    assert iou(thrifty.locate(encoded, "red").boxes[0].xyxy, (60, 80, 140, 160)) > 0.4


def test_a_budget_of_one_is_the_whole_picture(localizer):
    result = Localizer(localizer.encoder, Options(budget=1)).encode(picture())
    assert result.boxes.tolist() == [[0, 0, 320, 240]]


def test_a_budget_beyond_all_windows_changes_nothing(localizer):
    ample = Localizer(localizer.encoder, Options(budget=10_000)).locate(picture(), "red")
    usual = localizer.locate(picture(), "red")
    assert ample.boxes == usual.boxes
    assert (ample.maps == usual.maps).all()


def test_each_picture_of_many_gets_windows_of_its_own_within_the_budget():
    pictures = [picture(), picture(xyxy=(200, 100, 260, 160)), picture(200, 100, (10, 10, 60, 60))]
    thrifty = Localizer(ColourEncoder(), Options(budget=30, batch_size=25))
    for pixels, together in zip(pictures, thrifty.encode_many(pictures), strict=True):
        alone = thrifty.encode(pixels)
        assert (together.boxes == alone.boxes).all()
        torch.testing.assert_close(together.embeddings, alone.embeddings)


def test_batches_suit_the_device_unless_the_user_says_how_large():
    assert Localizer(ColourEncoder()).batch_size == 32
    assert Localizer(ColourEncoder(), Options(batch_size=5)).batch_size == 5


class CrampedEncoder(ColourEncoder):
    """Runs out of memory with more than 4 crops at once, as a small GPU does."""

    def encode_crops(self, crops):
        if len(crops) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode_crops(crops)


def test_where_memory_is_short_batches_are_halved_and_it_is_said_once():
    with pytest.warns(RuntimeWarning, match="batches of") as said:
        result = Localizer(CrampedEncoder(), Options(batch_size=6)).locate(picture(), "red")
    assert len(said) == 1
    assert result.maps == pytest.approx(Localizer(ColourEncoder()).locate(picture(), "red").maps)


def test_a_picture_that_cannot_be_read_is_reported_and_the_others_are_done():
    unread = []
    images = [picture(), b"no picture", picture(colour=(0, 0, 255))]
    localizer = Localizer(ColourEncoder())
    results = list(localizer.locate_many(images, "red", lambda *pair: unread.append(pair)))
    assert len(results) == 2
    ((source, error),) = unread
    assert source == b"no picture"
    assert "bytes" in str(error)


def test_without_a_handler_a_picture_that_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match="bytes"):
        Localizer(ColourEncoder()).locate(b"no picture", "red")


def test_a_picture_over_the_limit_is_refused():
    file = BytesIO()
    Image.fromarray(picture()).save(file, "PNG")
    with pytest.raises(ValueError, match="limit"):
        Localizer(ColourEncoder(), Options(max_pixels=100)).locate(file.getvalue(), "red")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda vectors: vectors * 2, "unit-norm"),
        (lambda vectors: vectors * float("nan"), "NaN"),
        (lambda vectors: vectors[:1], "shape"),
    ],
)
def test_an_encoder_that_returns_nonsense_is_refused_by_method(broken, words):
    class Broken(ColourEncoder):
        def encode_crops(self, crops):
            embeddings, tokens = super().encode_crops(crops)
            return broken(embeddings), tokens

        def encode_prompts(self, texts):
            return broken(super().encode_prompts(texts))

    with pytest.raises(ValueError, match=f"encode_crops.*{words}"):
        Localizer(Broken()).encode(picture())
    with pytest.raises(ValueError, match=f"encode_prompts.*{words}"):
        Localizer(Broken()).embed_prompts(["red", "blue"])


def test_what_was_found_can_be_saved_and_is_no_surer_than_its_presence(localizer, tmp_path):
    result = localizer.locate(picture(), ["red"])
    result.save_json(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["boxes"][0]["score"] == pytest.approx(result.boxes[0].score, abs=1e-4)
    assert result.boxes[0].score <= result.presence[0]


def test_a_prompt_asked_twice_gets_its_boxes_once(localizer):
    once, twice = localizer.locate(picture(), "red"), localizer.locate(picture(), ["red", "red"])
    assert twice.boxes == once.boxes
    assert twice.presence == pytest.approx(np.repeat(once.presence, 2))


def test_thousands_of_prompts_are_answered_like_a_few(localizer):
    many = [Prompt(str(number), ("red", "blue")[number % 2 :][:1]) for number in range(600)]
    encoded = localizer.encode(picture())
    few, all_of_them = localizer.locate(encoded, many[:2]), localizer.locate(encoded, many)
    assert all_of_them.presence == pytest.approx(np.tile(few.presence, 300), abs=1e-6)
    assert {box.label for box in all_of_them.boxes} == {str(n) for n in range(0, 600, 2)}


def test_an_encoder_that_gives_tokens_for_some_batches_only_is_refused():
    class Moody(ColourEncoder):
        calls = 0

        def encode_crops(self, crops):
            self.calls += 1
            embeddings, tokens = super().encode_crops(crops)
            return embeddings, tokens if self.calls % 2 else None

    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    with pytest.raises(ValueError, match="tokens for some batches and not for others"):
        Localizer(Moody(), Options(batch_size=8)).encode(picture)


def test_cells_are_judged_at_a_scale_of_their_own_where_the_encoder_has_one():
    class Blunt(ColourEncoder):
        token_scale = 3.0

    red = picture(xyxy=(0, 0, 320, 240))  # every window and every cell of it is the same
    words = ColourEncoder().encode_prompts(list(Blunt.negatives))

    def probability(scale):
        logits = np.exp(scale * (words @ words[0]).numpy())
        return logits[0] / logits.sum()

    expected = probability(3.0) ** 0.4 * probability(30.0) ** 0.6
    assert Localizer(Blunt()).locate(red, "red").presence[0] == pytest.approx(expected, rel=1e-4)
    same = Localizer(ColourEncoder()).locate(red, "red").presence[0]
    assert same == pytest.approx(probability(30.0), rel=1e-4)


def test_an_encoded_picture_is_written_as_a_line(localizer):
    encoded = localizer.encode(picture())
    tokens = "without tokens" if encoded.tokens is None else "4 x 4 tokens each"
    windows = f"{encoded.num_crops} windows"
    assert repr(encoded) == f"<Encoded a picture, 320 x 240: {windows}, {tokens}>"
