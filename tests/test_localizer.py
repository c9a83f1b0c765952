"""The two verbs, on an encoder small enough to reason about: it sees colours."""

import json
import pickle
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import ColourEncoder, unit
from PIL import Image

from localize import Localizer, Options, Prompt
from localize.evaluation.scenes import demo_scene
from localize.prompts import as_prompt
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
    plain = localizer._scores(encoded, localizer._queries([as_prompt("red")]))
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


def test_each_alternative_is_judged_alone_and_the_best_counts(localizer):
    either = Prompt.of("signal", any=["red", "blue"])
    encoded = localizer.encode(picture())
    red, blue = localizer.locate(encoded, ["red", "blue"]).presence
    assert blue < red
    result = localizer.locate(encoded, [either, "green"])
    assert result.prompts == ("signal", "green")
    assert result.presence[0] == pytest.approx(red, abs=1e-5)
    assert result.boxes[0].label == "signal"
    assert localizer.locate(encoded, "green").presence == pytest.approx(result.presence[1:])


def test_a_word_of_the_bank_that_is_one_alternative_is_no_rival_of_another():
    encoder = ColourEncoder()
    encoder.negatives = ["orange", "blue", "grey"]
    localizer = Localizer(encoder)
    pixels = picture(colour=(255, 120, 0))
    alone = localizer.locate(pixels, "red").presence
    with_orange = localizer.locate(pixels, Prompt.of("warm", any=["red", "orange"])).presence
    assert with_orange > alone


def test_a_picture_as_a_prompt_finds_its_like_and_nothing_else(localizer):
    like = Prompt.from_image(np.full((20, 30, 3), (250, 10, 10), np.uint8), "like this")
    result = localizer.locate(picture(), like)
    assert iou(result.boxes[0].xyxy, (60, 80, 140, 160)) > 0.4
    assert result.presence[0] > 0.8
    assert localizer.locate(picture(colour=(0, 0, 255)), like).boxes == []


def test_a_picture_is_trusted_as_far_as_it_shows_the_words_it_is_put_into(localizer):
    encoder, muddy = localizer.encoder, np.full((64, 64, 3), (160, 140, 120), np.uint8)
    bank = encoder.encode_prompts(encoder.negatives)
    shown = encoder.encode_crops(torch.from_numpy(muddy).permute(2, 0, 1)[None] / 127.5 - 1)[0][0]
    weights = torch.softmax(2 * encoder.logit_scale * bank @ shown, 0)
    words = weights @ bank / (weights @ bank).norm()
    wanted, rivals = (
        torch.exp(encoder.logit_scale * each @ shown).sum()
        for each in (words, bank[bank @ words < 0.95])
    )
    score = float(wanted / (wanted + rivals))
    assert 0.6 < score < 0.95
    result = localizer.locate(muddy, [Prompt.from_image(muddy, "muddy"), "red"])
    assert result.presence[0] == pytest.approx(score * score, abs=1e-3)
    assert result.presence[1:] == pytest.approx(localizer.locate(muddy, "red").presence)


def test_pictures_of_what_is_not_meant_are_scored_against(localizer):
    red, orange = (np.full((20, 30, 3), rgb, np.uint8) for rgb in ((250, 10, 10), (255, 120, 0)))
    pixels = picture(colour=(255, 110, 0))
    plain = localizer.locate(pixels, Prompt.from_image(red, "red")).presence
    wary = localizer.locate(pixels, Prompt.from_image(red, "red", unlike=[orange])).presence
    assert wary < plain


def test_the_users_own_negatives_are_scored_against():
    plain = Localizer(ColourEncoder())
    plain.encoder.negatives = ["blue"]
    wary = Localizer(plain.encoder, Options(negatives=("grey",)))
    plain = Localizer(plain.encoder)
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert wary.locate(grey, "red").presence < plain.locate(grey, "red").presence


def test_a_prompt_has_negatives_of_its_own_that_others_are_not_scored_against(localizer):
    pixels = picture(colour=(255, 110, 0))
    plain = localizer.locate(pixels, ["red", "blue"]).presence
    wary = Prompt.of("wary", any=["red"], negatives=["orange"])
    found = localizer.locate(pixels, [wary, "red", "blue"]).presence
    assert found[0] < plain[0] - 0.1
    assert found[1:] == pytest.approx(plain, abs=1e-5)


def assert_same_boxes(found, expected):
    """The same but for the last digits, in which products of more columns may differ."""
    assert [box.label for box in found] == [box.label for box in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score)
        assert one.xyxy == pytest.approx(other.xyxy, abs=1e-3)


def test_a_prompt_has_a_threshold_of_its_own_above_or_below_that_of_the_options(localizer):
    encoded = localizer.encode(picture())
    usual = localizer.locate(encoded, "red").boxes
    strict = Prompt.of("strict", any=["red"], threshold=(1 + usual[0].score) / 2)
    assert_same_boxes(localizer.locate(encoded, [strict, "red"]).boxes, usual)
    wary = Localizer(localizer.encoder, Options(threshold=1))
    assert wary.locate(encoded, "red").boxes == []
    lenient = Prompt.of("red", threshold=localizer.options.threshold)
    assert_same_boxes(wary.locate(encoded, [lenient, strict]).boxes, usual)


def test_asking_for_nothing_is_refused(localizer):
    with pytest.raises(ValueError, match="prompts"):
        localizer.locate(picture(), [])


def test_the_same_input_gives_the_same_result_on_every_run(localizer):
    first, second = (localizer.locate(picture(), ["red", "grey"]) for _ in range(2))
    assert first.boxes == second.boxes
    assert (first.maps == second.maps).all()


def test_no_more_windows_than_the_budget_are_encoded_and_the_thing_is_still_found(localizer):
    thrifty = Localizer(localizer.encoder, Options(budget=30))
    encoded = thrifty.encode(picture())
    assert 9 < encoded.num_crops == len(encoded.boxes) <= 30
    assert iou(thrifty.locate(encoded, "red").boxes[0].xyxy, (60, 80, 140, 160)) > 0.4


def test_a_budget_of_one_is_the_whole_picture(localizer):
    result = Localizer(localizer.encoder, Options(budget=1)).encode(picture())
    assert result.boxes.tolist() == [[0, 0, 320, 240]]


def test_the_order_of_scales_changes_nothing(localizer):
    backwards = tuple(reversed(Options().scales))
    other = Localizer(localizer.encoder, Options(scales=backwards)).locate(picture(), "red")
    usual = localizer.locate(picture(), "red")
    assert other.boxes == usual.boxes
    assert (other.maps == usual.maps).all()


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


def test_where_memory_was_short_once_later_batches_are_no_larger():
    sizes = []

    class Noting(CrampedEncoder):
        def encode_crops(self, crops):
            sizes.append(len(crops))
            return super().encode_crops(crops)

    with pytest.warns(RuntimeWarning, match="batches of 3"):
        Localizer(Noting(), Options(batch_size=6)).encode(picture())
    assert sizes[0] == 6
    assert max(sizes[1:]) <= 3


def test_what_was_encoded_before_an_encoder_fails_is_given_before_its_error():
    class Failing(ColourEncoder):
        batches = 0

        def encode_crops(self, crops):
            self.batches += 1
            if self.batches > 2:
                raise RuntimeError("the device is gone")
            return super().encode_crops(crops)

    pictures = [picture()] * 4
    count = Localizer(ColourEncoder()).encode(pictures[0]).num_crops
    stream = Localizer(Failing(), Options(batch_size=count)).encode_many(pictures)
    assert [next(stream).num_crops, next(stream).num_crops] == [count, count]
    with pytest.raises(RuntimeError, match="the device is gone"):
        next(stream)


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


@pytest.mark.parametrize("batch_size", [32, 256])
def test_pictures_before_one_that_cannot_be_read_are_given_before_it_is_an_error(batch_size):
    images = [picture(), picture(colour=(0, 0, 255)), b"no picture", picture()]
    localizer = Localizer(ColourEncoder(), Options(batch_size=batch_size))
    given = []
    with pytest.raises(ValueError, match="bytes"):
        given.extend(localizer.locate_many(images, "red"))
    assert [result.source is image for result, image in zip(given, images, strict=False)] == [
        True,
        True,
    ]


def test_pictures_before_an_error_of_where_they_come_from_are_given_before_it():
    def camera():
        yield picture()
        yield picture(colour=(0, 0, 255))
        raise ConnectionError("the camera is gone")

    results = Localizer(ColourEncoder()).locate_many(camera(), "red")
    assert (next(results).pixels == picture()).all()
    next(results)
    with pytest.raises(ConnectionError, match="camera"):
        next(results)


@pytest.mark.parametrize(
    "bad",
    [
        np.full((8, 8, 3), np.nan),
        np.zeros((5, 7, 9), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), complex),
        None,
    ],
    ids=["NaN", "odd shape", "empty", "complex", "None"],
)
def test_what_is_no_picture_is_reported_whatever_it_is_and_the_others_are_done(bad):
    refused = []
    images = [picture(), bad, picture()]
    localizer = Localizer(ColourEncoder())
    results = list(localizer.locate_many(images, "red", lambda *pair: refused.append(pair)))
    assert len(results) == 2
    ((source, error),) = refused
    assert source is bad
    assert str(error)


def test_a_picture_of_too_many_windows_is_reported_and_the_others_are_done():
    refused = []
    localizer = Localizer(ColourEncoder(), Options(scales=(9,)))
    images = [picture(64, 48, (8, 8, 30, 30)), picture(4000, 3000)]
    results = list(localizer.locate_many(images, "red", lambda *pair: refused.append(pair)))
    assert len(results) == 1
    ((source, error),) = refused
    assert source is images[1]
    assert "scales and stride" in str(error)


def test_a_result_says_which_source_it_is_of(tmp_path):
    path = tmp_path / "red.png"
    Image.fromarray(picture()).save(path)
    images = [picture(), path, b"no picture", str(path)]
    localizer = Localizer(ColourEncoder())
    sources = [r.source for r in localizer.locate_many(images, "red", lambda *_: None)]
    assert sources[0] is images[0]
    assert sources[1:] == [path, str(path)]
    assert localizer.locate(localizer.encode(path), "red").source == path
    assert localizer.encode(path).source == path


@pytest.mark.parametrize(
    "one",
    ["photo.jpg", Path("photo.jpg"), b"bytes", picture(), Image.fromarray(picture()), 7],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("verb", ["locate_many", "encode_many"])
def test_one_picture_where_several_are_taken_is_refused_at_once(verb, one):
    localizer = Localizer(ColourEncoder())
    arguments = (one, "red") if verb == "locate_many" else (one,)
    with pytest.raises(TypeError, match="images must be several pictures"):
        getattr(localizer, verb)(*arguments)


def test_a_stack_of_pictures_is_several():
    stack = np.stack([picture(), picture(colour=(0, 0, 255))])
    presences = [r.presence[0] for r in Localizer(ColourEncoder()).locate_many(stack, "red")]
    assert presences[0] > 0.8
    assert presences[1] < 0.2


def test_options_of_another_type_are_refused_before_a_model_is_loaded():
    with pytest.raises(TypeError, match="options must be an Options"):
        Localizer.from_pretrained("no/such-model", options={})
    with pytest.raises(TypeError, match="options must be an Options"):
        Localizer(ColourEncoder(), {"threshold": 0.2})


def test_a_localizer_is_small_when_pickled_and_answers_the_same_when_unpickled(localizer):
    before = localizer.locate(picture(), ["red", "blue"])
    data = pickle.dumps(localizer)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert again.options == localizer.options
    assert (again.locate(picture(), ["red", "blue"]).maps == before.maps).all()


def test_what_one_picture_would_hold_of_its_windows_is_limited(monkeypatch):
    monkeypatch.setattr("localize.encoding.MAX_BYTES", 1_000_000)
    localizer = Localizer(ColourEncoder(), Options(scales=(0.01,)))
    with pytest.raises(ValueError, match=r"windows would take .* larger scale or stride"):
        localizer.encode(picture(960, 720))
    assert localizer.encode(picture(40, 30, (8, 8, 20, 20))).num_crops < 1000


@pytest.mark.parametrize(("name", "size"), [("SCORES_AT_ONCE", 5000), ("PROMPTS_AT_ONCE", 2)])
def test_prompts_answered_some_at_a_time_get_the_same_answers(localizer, monkeypatch, name, size):
    prompts = ["red", "blue", "green", "red", "grey"]
    encoded = localizer.encode(picture())
    together = localizer.locate(encoded, prompts)
    monkeypatch.setattr(f"localize.localizer.{name}", size)
    apart = localizer.locate(encoded, prompts)
    assert apart.presence == pytest.approx(together.presence, abs=1e-6)
    assert apart.maps == pytest.approx(together.maps, abs=1e-5)
    assert [box.label for box in apart.boxes] == [box.label for box in together.boxes]


def test_memory_for_many_prompts_that_are_there_is_little_more_than_their_maps(monkeypatch):
    monkeypatch.setattr("localize.localizer.PROMPTS_AT_ONCE", 8)
    localizer = Localizer(ColourEncoder())
    encoded = localizer.encode(picture(320, 20, (60, 4, 75, 18)))
    prompts = [Prompt(str(number), ("red",)) for number in range(300)]
    localizer.locate(encoded, prompts[:9])
    tracemalloc.start()
    try:
        result = localizer.locate(encoded, prompts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * result.maps.nbytes


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
    assert_same_boxes(twice.boxes, once.boxes)
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

    logits = 30 * (words @ words[0]).numpy()
    odds = np.exp(logits[0]) / np.exp(logits[1:]).sum()

    def probability(scale):
        """The log-odds at a logit scale of 30 shrunk to those of another one."""
        return 1 / (1 + odds ** (-scale / 30))

    expected = probability(3.0) ** 0.4 * probability(30.0) ** 0.6
    assert Localizer(Blunt()).locate(red, "red").presence[0] == pytest.approx(expected, rel=1e-4)
    same = Localizer(ColourEncoder()).locate(red, "red").presence[0]
    assert same == pytest.approx(probability(30.0), rel=1e-4)


def test_an_encoded_picture_is_written_as_a_line(localizer):
    encoded = localizer.encode(picture())
    tokens = "without tokens" if encoded.tokens is None else "4 x 4 tokens each"
    windows = f"{encoded.num_crops} windows"
    assert repr(encoded) == f"<Encoded a picture, 320 x 240: {windows}, {tokens}>"


def test_a_map_is_highest_at_the_presence_of_its_prompt(localizer):
    result = localizer.locate(picture(), ["red", "green", "blue"])
    assert {box.label for box in result.boxes} < set(result.prompts)
    for maps in (result.maps, result.relevance):
        assert maps.max((1, 2)) == pytest.approx(result.presence, rel=1e-6)


def test_a_threshold_says_what_is_reported_and_changes_no_map(localizer):
    encoded, asked = localizer.encode(picture()), ["red", "green", "blue", "yellow"]
    results = [
        Localizer(localizer.encoder, Options(threshold=threshold)).locate(encoded, asked)
        for threshold in (0, 0.05, 0.5, 1)
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.maps, results[0].maps)
    counts = [len(result.boxes) for result in results]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0 < counts[0]


def test_a_prepared_picture_gives_the_same_answers_to_the_last_digit():
    plain = Localizer.from_pretrained("emoji", options=Options(negatives=("a wolf",)))
    other = Localizer(plain.encoder)
    encoded = plain.encode(demo_scene().image)
    prepared = plain.prepare(encoded)
    assert prepared.nbytes > encoded.nbytes
    prompts = [
        "a cat",
        "a bicycle",
        Prompt.of("vehicle", any=["a car", "a house"], negatives=["a church"]),
        Prompt.from_image(demo_scene().image[330:590, 480:700], "like this"),
    ]
    for asked in (prompts, prompts[:1], prompts[2:]):
        for localizer in (plain, other):  # what another one prepared is of no use, and does no harm
            found, expected = localizer.locate(prepared, asked), localizer.locate(encoded, asked)
            assert found.boxes == expected.boxes
            assert np.array_equal(found.presence, expected.presence)
            assert np.array_equal(found.maps, expected.maps)
