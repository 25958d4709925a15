from __future__ import annotations

import numpy as np
import pytest
import torch

from fairtat.evaluation import ClassFigures
from fairtat.evaluation.report.order import order_by_confusion, seriated


def shuffled(similarity: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(similarity))
    return similarity[np.ix_(order, order)], order


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 10, 43])
def test_a_shuffled_chain_is_found_again(count: int, seed: int) -> None:
    at = np.arange(count)
    similarity, hidden = shuffled(1.0 / (1.0 + np.abs(at[:, None] - at)), seed)
    found = hidden[seriated(similarity)]
    assert sorted(found) == list(range(count))
    assert np.abs(np.diff(found)).mean() < 1.6  # 1 is the chain itself; a random order has about count / 3


@pytest.mark.parametrize("seed", range(5))
def test_classes_of_one_group_stand_together(seed: int) -> None:
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 8, 7])
    noise = 0.2 * random.random((43, 43))
    similarity, hidden = shuffled((group[:, None] == group) + noise + noise.T, seed)
    found = group[hidden[seriated(similarity)]]
    assert (np.diff(found) != 0).sum() == 8  # every group in one piece


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_those_of_scipy_and_neighbors_as_similar_as_in_its_leaf_order(seed: int) -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    squareform = pytest.importorskip("scipy.spatial.distance").squareform
    points = np.random.default_rng(seed).normal(size=(43, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    tree = hierarchy.linkage(squareform(distance), "average", optimal_ordering=True)

    def length(order: list[int]) -> float:
        return float(distance[order[:-1], order[1:]].sum())

    found = seriated(distance.max() - distance)
    place = {k: at for at, k in enumerate(found)}
    members = {k: {k} for k in range(43)}
    for number, (a, b, _, _) in enumerate(tree):
        members[43 + number] = members[int(a)] | members[int(b)]
        at = [place[k] for k in members[43 + number]]
        assert max(at) - min(at) + 1 == len(at)
    theirs = length(hierarchy.leaves_list(tree).tolist())
    random_order = length(np.random.default_rng(seed + 100).permutation(43).tolist())
    assert length(found) < theirs + 0.1 * (random_order - theirs)


def test_the_confusions_of_either_direction_and_of_every_model_count() -> None:
    one, two = torch.eye(5, dtype=torch.int64) * 10, torch.eye(5, dtype=torch.int64) * 10
    one[0, 4] = 5  # 0 is taken for 4 by the first model, 2 for 0 by the second
    two[2, 0] = 5
    found = order_by_confusion([ClassFigures(one), ClassFigures(two)])
    place = {k: at for at, k in enumerate(found)}
    assert abs(place[0] - place[4]) == 1
    assert abs(place[0] - place[2]) == 1


def test_absent_classes_and_ties_keep_every_class_once() -> None:
    confusion = torch.zeros(6, 6, dtype=torch.int64)
    confusion[1, 1] = 3
    assert order_by_confusion([ClassFigures(confusion)]) == list(range(6))
    assert seriated(np.zeros((1, 1))) == [0]
    assert seriated(np.zeros((0, 0))) == []


def test_the_order_does_not_depend_on_anything_but_the_counts() -> None:
    random = np.random.default_rng(3)
    similarity = random.random((30, 30))
    similarity += similarity.T
    assert seriated(similarity) == seriated(similarity.copy())
    assert seriated(similarity) == seriated(3 * similarity)
