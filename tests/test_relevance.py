"""Maps say where prompts are: softmax against rivals, overlapping windows averaged."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from localize.relevance import (
    LEAST_BANK,
    TOKEN_POWER,
    distinct,
    map_size,
    overlap_average,
    presences,
    probabilities,
    relevance_maps,
    rivals,
    synonym_limit,
    with_peaks,
)
from localize.windows import make_grids

SCALES = (1.0, 0.5)


def vectors(*shape, seed=0):
    return F.normalize(torch.randn(*shape, 16, generator=torch.manual_seed(seed)), dim=-1)


def test_a_probability_is_the_softmax_over_the_prompt_and_its_own_rivals():
    embeddings, prompts, negatives = vectors(5), vectors(3, seed=1), vectors(7, seed=2)
    against = torch.rand(3, 7, generator=torch.manual_seed(3)) < 0.6
    found = probabilities(embeddings, prompts, negatives, against, 20.0)
    for row, column in np.ndindex(5, 3):
        rows = torch.cat([prompts[column, None], negatives[against[column]]])
        expected = torch.softmax(20.0 * rows @ embeddings[row], 0)[0]
        assert found[row, column].item() == pytest.approx(expected.item(), rel=1e-4)


def test_probabilities_are_finite_for_encoders_of_any_temperature():
    embeddings, prompts, negatives = vectors(4), vectors(2, seed=1), vectors(6, seed=2)
    for scale in (0.01, 100.0, 1e4):
        found = probabilities(embeddings, prompts, negatives, torch.ones(2, 6).bool(), scale)
        assert found.isfinite().all()
        assert ((found >= 0) & (found <= 1)).all()


def test_asking_other_prompts_along_changes_nothing():
    embeddings, prompts, negatives = vectors(4), vectors(3, seed=1), vectors(6, seed=2)
    against = torch.ones(3, 6).bool()
    together = probabilities(embeddings, prompts, negatives, against, 30.0)
    alone = probabilities(embeddings, prompts[:1], negatives, against[:1], 30.0)
    torch.testing.assert_close(together[:, :1], alone)


def test_a_prompt_by_another_name_is_no_rival_of_it():
    bank = vectors(2 * LEAST_BANK)
    nearly = F.normalize(bank[:1] + 0.3 * bank[1:2], dim=-1)
    against = rivals(nearly, bank, bank[:0], synonym_limit(bank))
    assert not against[0, 0]
    assert against[0].float().mean() > 0.8


def test_words_that_all_look_alike_to_an_encoder_stay_rivals():
    direction = F.normalize(torch.ones(16), dim=0)
    alike = F.normalize(vectors(2 * LEAST_BANK) + 3 * direction, dim=-1)
    assert (alike @ alike.T).mean() > 0.8
    against = rivals(alike[:10], alike, alike[:0], synonym_limit(alike))
    assert 0.8 < against.float().mean() < 0.95


def test_words_that_are_nearly_orthogonal_to_all_others_have_no_synonyms():
    bank = torch.eye(2 * LEAST_BANK)
    against = rivals(bank, bank, bank[:0], synonym_limit(bank))
    slightly_alike = F.normalize(bank + 0.3 * bank.roll(1, 0), dim=-1)
    assert against.sum() == len(bank) * (len(bank) - 1)
    assert rivals(slightly_alike, bank, bank[:0], synonym_limit(bank)).sum() == against.sum()


def test_of_a_small_bank_only_the_prompt_itself_is_left_out():
    bank = torch.eye(4)
    against = rivals(bank, bank, bank[:0], synonym_limit(bank))
    assert against.tolist() == (1 - torch.eye(4)).bool().tolist()


def test_what_the_user_chose_as_a_negative_counts_however_near_it_is():
    bank = vectors(2 * LEAST_BANK)
    near = F.normalize(bank[:1] + 0.5 * bank[1:2], dim=-1)
    against = rivals(bank[:1], bank, torch.cat([near, bank[:1]]), synonym_limit(bank))
    assert against[0, -2:].tolist() == [True, False]


def test_the_most_convincing_window_says_whether_a_prompt_is_there():
    windows = torch.tensor([[0.1, 0.2], [0.7, 0.0]])
    assert presences(windows, None).tolist() == pytest.approx([0.7, 0.2])


def test_a_convincing_token_makes_a_prompt_more_present_and_a_poor_one_less():
    windows, tokens = torch.tensor([[0.5]]), torch.tensor([[[[0.9], [0.1]]]])
    (present,) = presences(windows, tokens)
    assert present == pytest.approx(0.9**TOKEN_POWER * 0.5 ** (1 - TOKEN_POWER))


@pytest.mark.parametrize("size", [(640, 480), (90, 200), (30, 20)])
def test_overlap_averages_are_those_of_a_loop_over_windows_and_pixels(size):
    grid = make_grids(*size, 32, (0.5,), 0.75)[1]
    scores = torch.rand(len(grid), 1, 1, 2, generator=torch.manual_seed(4))
    found = overlap_average(grid, scores)
    width, height = map_size(*size)
    assert found.shape == (2, height, width)
    for y, x in [(0, 0), (height // 2, width // 3), (height - 1, width - 1), (height // 3, 0)]:
        expected = _average_at(grid, scores, (x + 0.5) / width, (y + 0.5) / height)
        np.testing.assert_allclose(found[:, y, x], expected, rtol=1e-4)


def _average_at(grid, scores, x, y):
    """The mean, weighted by Gaussians about the windows' centres, over windows that hold (x, y)."""
    total, weights = np.zeros(2), 0.0
    for index, (left, top) in enumerate(grid.corners):
        across = (x * grid.level[0] - left) / grid.side
        down = (y * grid.level[1] - top) / grid.side
        if 0 <= across < 1 and 0 <= down < 1:
            weight = math.exp(-8 * ((across - 0.5) ** 2 + (down - 0.5) ** 2))
            total += weight * scores[index, 0, 0].numpy()
            weights += weight
    return total / weights


def test_a_token_says_where_in_its_window_the_prompt_is():
    grids = make_grids(400, 400, 32, (1.0,), 1.0)
    tokens = torch.full((2, 4, 4, 1), 0.01)
    tokens[1, 0, 3] = 0.9
    (relevance,) = relevance_maps(grids, torch.full((2, 1), 0.5), tokens)
    y, x = np.unravel_index(relevance.argmax(), relevance.shape)
    assert y < relevance.shape[0] / 4
    assert x >= 3 / 4 * relevance.shape[1]


def test_a_token_counts_for_little_where_its_window_does_not_see_the_prompt():
    grids = make_grids(400, 200, 32, (1.0,), 1.0)
    window_scores = torch.tensor([[0.5], [0.001], [0.8]])
    relevance = relevance_maps(grids, window_scores, torch.full((3, 2, 2, 1), 0.5))[0]
    left, right = np.split(relevance, 2, axis=1)
    assert right.min() > 10 * left.max()


def test_without_tokens_maps_are_the_mean_over_scales_of_window_scores():
    grids = make_grids(320, 240, 32, SCALES, 0.5)
    scores = torch.rand(sum(map(len, grids)), 3, generator=torch.manual_seed(5))
    parts = scores.split([len(grid) for grid in grids])
    expected = sum(
        overlap_average(grid, part[:, None, None])
        for grid, part in list(zip(grids, parts, strict=True))[1:]
    ) / len(SCALES)
    np.testing.assert_allclose(relevance_maps(grids, scores, None), expected, rtol=1e-5)


def test_where_there_is_only_the_whole_picture_its_tokens_are_the_map():
    grids = make_grids(320, 240, 32, (), 0.5)
    tokens = torch.zeros(1, 4, 4, 1)
    tokens[0, 3, 0] = 1
    (relevance,) = relevance_maps(grids, torch.ones(1, 1), tokens)
    assert relevance[-1, 0] == pytest.approx(1)
    assert relevance[0, -1] == pytest.approx(0)


def test_maps_are_multiplied_by_the_squared_mean_of_logistic_standard_scores_with_a_peak_of_one():
    grids = make_grids(320, 240, 32, SCALES, 0.75)
    count = sum(map(len, grids))
    likeness = 0.2 + 0.05 * torch.randn(count, 2, 3, 2, generator=torch.manual_seed(8))
    for prompt, found in enumerate(
        distinct(np.full((2, 120, 160), 0.5, np.float32), grids, likeness)
    ):
        cosines = likeness[..., prompt : prompt + 1].double().numpy()
        logistic = 1 / (1 + np.exp(-2 * (cosines - cosines.mean()) / cosines.std()))
        maps, start = [], 0
        for grid in grids:
            part = torch.from_numpy(logistic[start : start + len(grid)]).float()
            maps.append(overlap_average(grid, part)[0].numpy())
            start += len(grid)
        expected = np.mean(maps[1:], axis=0) ** 2
        np.testing.assert_allclose(found, 0.5 * expected / expected.max(), rtol=1e-4)


def test_distinctness_does_not_depend_on_how_alike_an_encoder_finds_everything():
    grids = make_grids(320, 240, 32, SCALES, 0.75)
    likeness = torch.rand(sum(map(len, grids)), 1, 1, 3, generator=torch.manual_seed(9))
    maps = np.ones((3, 120, 160), np.float32)
    narrow = distinct(maps, grids, 0.7 + 0.05 * likeness)
    np.testing.assert_allclose(narrow, distinct(maps, grids, likeness), rtol=1e-3)


def test_where_all_places_are_equally_like_a_prompt_none_is_distinct():
    grids = make_grids(320, 240, 32, SCALES, 0.75)
    likeness = torch.full((sum(map(len, grids)), 2, 2, 1), 0.25)
    rounding = 1e-7 * torch.randn(likeness.shape, generator=torch.manual_seed(10))
    maps = np.random.default_rng(0).random((1, 120, 160), np.float32)
    np.testing.assert_allclose(distinct(maps, grids, likeness + rounding), maps, rtol=1e-3)


def test_tempering_multiplies_the_log_odds():
    embeddings, prompts, negatives = vectors(5), vectors(3, seed=1), vectors(7, seed=2)
    against = torch.ones(3, 7).bool()
    plain = probabilities(embeddings, prompts, negatives, against, 20.0)
    found = probabilities(embeddings, prompts, negatives, against, 20.0, temper=0.4)
    torch.testing.assert_close(torch.logit(found), 0.4 * torch.logit(plain), atol=1e-3, rtol=1e-3)


def test_a_map_is_highest_at_the_peak_it_is_given_and_keeps_its_proportions():
    maps = np.random.default_rng(1).random((3, 12, 16), np.float32)
    maps[2] = 0
    found = with_peaks(maps, np.array([0.8, 0.01, 0.5], np.float32))
    assert found.max((1, 2)).tolist() == [np.float32(0.8), np.float32(0.01), 0]
    np.testing.assert_allclose(found[0] / maps[0], 0.8 / maps[0].max(), rtol=1e-5)


def test_parts_of_what_is_asked_for_do_not_speak_against_it():
    axes = torch.eye(4)
    person, shirt, dog, sky = axes
    bank = torch.stack([person, shirt, dog, sky])
    parts = torch.zeros(4, 4, dtype=torch.bool)
    parts[0, 1] = True  # a shirt is a part of a person
    girl = F.normalize(person + 0.2 * dog, dim=0)
    against = rivals(torch.stack([girl, shirt, dog]), bank, bank[:0], 0.9, parts)
    assert against.tolist() == [
        [False, False, True, True],
        [True, False, True, True],  # the whole still speaks against its part
        [True, True, False, True],
    ]


def test_negatives_of_one_prompt_count_for_it_alone_and_as_if_they_were_in_the_bank():
    embeddings, prompts = vectors(6), vectors(2, seed=1)
    negatives, own = vectors(5, seed=2), vectors(3, seed=3)
    whose = torch.tensor([[True, True, False], [False, False, False]])
    against = torch.ones(2, 5).bool()
    found = probabilities(embeddings, prompts, negatives, against, 20.0, unlike=(own, whose))
    both, all_against = torch.cat([negatives, own]), torch.cat([against, whose], 1)
    assert torch.allclose(found, probabilities(embeddings, prompts, both, all_against, 20.0))
    alone = probabilities(embeddings, prompts, negatives, against, 20.0)
    assert torch.equal(found[:, 1], alone[:, 1])
    assert (found[:, 0] < alone[:, 0]).all()
