"""The square attack: the law of its windows, its steps against a loop of its own, and what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from fairtat.attacks import square
from fairtat.attacks.autoattack import square_steps
from fairtat.attacks.autoattack.square_steps import SquareSteps, Windows, query_words, scaled
from fairtat.attacks.autoattack.stages import Square

# The table of Andriushchenko et al. (section 3.1) for 10,000 queries: the share halves at these.
HALVINGS = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]


@pytest.mark.parametrize(("resc", "queries"), [(False, 10_000), (True, 1000), (False, 300)])
def test_the_share_of_a_square_follows_the_papers_table(resc, queries):
    windows = Windows(32, 32, "linf", 0.8, queries, resc)
    for query in [0, 10, 11, 50, 51, 200, 201, queries // 2, queries - 1]:
        at = int(query * 10_000 / queries) if resc else query
        expected = 0.8 * 0.5 ** sum(at > h for h in HALVINGS)
        assert windows.share(query) == pytest.approx(expected)
        assert windows.side(query) == max(1, round(math.sqrt(expected * 1024)))
    changes = windows.changes()
    assert [changes[0][0], changes[1][0]] == ([0, 11] if not resc else [0, 2])
    assert all(windows.side(first) == side for first, side in changes)


def test_in_l2_the_side_is_odd_and_at_least_three():
    windows = Windows(28, 28, "l2", 0.8, 5000, False)
    sides = [side for _, side in windows.changes()]
    assert sides[0] == 25
    assert min(sides) == 3
    assert all(side % 2 for side in sides)
    assert Windows(4, 6, "l2", 0.8, 10, False).side(0) == 4  # the whole of a small image


def samples_of(arena, n_queries, count, *, norm="linf", stream=7):
    """Samples in the midst of a search, at queries of their own."""
    channels, h, w = arena.x.shape[1:]
    windows = Windows(h, w, norm, 0.8, n_queries, False)
    columns = square_steps.start(arena, torch.arange(len(arena.x)), 3)
    columns["step"] = torch.arange(len(arena.x)) % n_queries
    ids = columns.pop("ids")
    words = query_words(arena, ids, columns["step"], count, stream, channels)
    given = {**columns, "words": words, "drawn_at": columns["step"].clone()}
    return SquareSteps(arena, given, count, windows=windows), given


def test_a_window_is_drawn_uniformly_over_all_places_and_signs(open_arena):
    n, side = 6000, 9
    x, y = torch.full((n, 2, 12, 12), 0.5), torch.zeros(n, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(288, 2))
    with open_arena(model, x, y, eps=0.1) as here:
        steps, columns = samples_of(here, 1, 1)
        samples = steps.samples_type(spans=(), **columns)
        samples.x_best.copy_(x)
        moved = (steps.proposal(samples) - x).sign()
    assert (Windows(12, 12, "linf", 0.8, 1, False).side(0), 12 - side + 1) == (11, 4)  # sqrt(0.8 * 144) = 10.7
    window = moved[:, 0] != 0
    assert torch.equal(window, moved[:, 1] != 0)
    sizes = window.flatten(1).sum(1)
    assert (sizes == 121).all()
    row, column = window.any(2).int().argmax(1), window.any(1).int().argmax(1)
    assert (window.any(2).sum(1) == 11).all()
    places = torch.bincount(2 * row + column, minlength=4).double()
    signs = torch.stack([moved[:, c].flatten(1).sum(1).sign() for c in range(2)], 1)
    both = torch.bincount(((signs + 1) * torch.tensor([1, 0.5])).sum(1).long(), minlength=4).double()
    for counts in (places, both):  # chi square with 3 degrees of freedom: above 16.3 once in a thousand
        assert float(((counts - n / 4) ** 2 / (n / 4)).sum()) < 16.3


def test_words_become_integers_of_every_value():
    words = torch.randint(0, 2**32, (4000,), generator=torch.Generator().manual_seed(0))
    found = scaled(words, torch.full((4000,), 5))
    assert torch.equal(found, (words.double() * 5 / 2**32).floor().long())
    assert scaled(torch.tensor([0, 2**32 - 1]), torch.tensor([7, 7])).tolist() == [0, 6]


def pyramid(height, width):
    """One half of the L2 pattern, as the paper draws it: boxes around the middle, weighted 1/(i+1)**2."""
    values = np.zeros((height, width))
    for i in range(max(height // 2 + 1, width // 2 + 1)):
        top, left = max(height // 2 - i, 0), max(width // 2 - i, 0)
        values[top : height // 2 + i + 1, left : width // 2 + i + 1] += 1 / (i + 1) ** 2
    return values / max(np.sqrt((values**2).sum()), 1e-300)


def pattern(side):
    both = np.concatenate([pyramid(side // 2, side), -pyramid(side - side // 2, side)])
    return both / np.sqrt((both**2).sum())


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9, 16, 25])
def test_the_l2_pattern_is_two_pyramids_of_opposite_signs(side):
    np.testing.assert_allclose(square_steps._square_pattern(side), pattern(side), atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_proposal_is_that_of_a_loop_over_samples(open_arena, norm):
    n, channels, h, w, eps = 30, 3, 11, 13, 0.4
    x = torch.rand(n, channels, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * h * w, 3)).double()
    with open_arena(model, x, torch.zeros(n, dtype=torch.int64), eps=eps, norm=norm) as here:
        steps, columns = samples_of(here, 600, 1, norm=norm)
        columns["step"] = columns["drawn_at"] = torch.arange(n) * 20
        samples = steps.samples_type(spans=(), **columns)
        found = steps.proposal(samples).numpy()
    windows = Windows(h, w, norm, 0.8, 600, False)
    turns = set()
    for i in range(n):
        word = columns["words"][i, 0].tolist()
        side = windows.side(i * 20)
        corner = [word[k] * (size - side + 1) >> 32 for k, size in enumerate((h, w, h, w))]
        signs = np.array([2 * (word[5] >> c & 1) - 1 for c in range(channels)])[:, None, None]
        image, best = x[i].numpy(), columns["x_best"][i].numpy()
        first = np.s_[:, corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        second = np.s_[:, corner[2] : corner[2] + side, corner[3] : corner[3] + side]
        if norm == "linf":
            expected = best.copy()
            expected[first] = (image + eps * signs)[first]
        else:
            delta = best - image
            either = np.zeros_like(delta)
            either[first] = either[second] = 1
            turned = word[4] >= 2**31
            turns.add(turned)
            new = (pattern(side).T if turned else pattern(side)) * signs
            new = new + delta[first] / (1e-12 + np.sqrt((delta[first] ** 2).sum((1, 2), keepdims=True)))
            held = ((delta * either) ** 2).sum((1, 2), keepdims=True)
            left = max(eps**2 - (delta**2).sum(), 0) / channels
            new = new / (1e-12 + np.sqrt((new**2).sum((1, 2), keepdims=True))) * np.sqrt(left + held)
            delta[second] = 0
            delta[first] = new
            expected = image + delta * eps / np.sqrt((delta**2).sum())
        # The pattern's heights are in float32.
        np.testing.assert_allclose(found[i], np.clip(expected, 0, 1), atol=1e-6)
    assert turns == ({True, False} if norm == "l2" else set())


@pytest.mark.parametrize("engine", ["eager", "compiled", "graph"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.12), ("l2", 0.8)])
def test_an_example_is_adversarial_and_in_the_ball(trained, compiles, stub, fallbacks_are_errors, norm, eps, engine):
    model, x, y = trained
    result = square(model, x, y, eps=eps, norm=norm, n_queries=120, engine=engine, chunk_size=48, return_info=True)
    with torch.no_grad():
        clean, fooled = model(x).argmax(1) != y, model(result.x_adv).argmax(1) != y
    assert torch.equal(result.reached, fooled)
    assert clean.sum() < fooled.sum() < len(x)
    delta = (result.x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.double().norm(dim=1)
    assert size.max() <= eps * (1 + 1e-6) + 2**-24
    assert 0 <= result.x_adv.min() <= result.x_adv.max() <= 1
    assert (result.steps[~fooled] == 121).all()


def test_the_search_is_accepted_where_the_margin_falls(trained, open_arena):
    """Beside a loop that keeps each proposal if the margin is lower."""
    model, x, y = trained
    model, x, y = model.double(), x[:20].double(), y[:20]
    with open_arena(model, x, y, eps=0.05) as here:
        stage = Square(n_queries=40)
        windows = Windows(8, 8, "linf", 0.8, 40, False)
        columns = square_steps.start(here, torch.arange(20), 3)
        ids = columns.pop("ids")
        best = columns["x_adv"].clone()

        def margin(z):
            own = z.gather(1, y[:, None])[:, 0]
            return own - z.scatter(1, y[:, None], -torch.inf).amax(1)

        lowest = margin(model(best)).detach()
        given = {
            **columns,
            "words": query_words(here, ids, columns["step"], 41, 5, 1),
            "drawn_at": columns["step"].clone(),
        }
        steps = SquareSteps(here, given, 41, windows=windows)
        for query in range(40):
            at = {**given, "step": torch.full_like(y, query), "x_best": best}
            proposal = steps.proposal(steps.samples_type(spans=(), **at))
            new = margin(model(proposal)).detach()
            better = new < lowest
            best = torch.where(better.view(-1, 1, 1, 1), proposal, best)
            lowest = torch.where(better, new, lowest)
        after = here.run(steps)
    assert stage.n_queries == windows.n_queries
    torch.testing.assert_close(after["x_best"], best, rtol=0, atol=1e-12)
    torch.testing.assert_close(-after["best_loss"], lowest)
    model.float()


@pytest.mark.parametrize("options", [{"chunk_size": 7}, {"order": True}])
def test_a_sample_does_not_depend_on_its_batch(trained, options):
    model, x, y = trained
    x, y, ids = x[:40], y[:40], 50 + torch.arange(40)
    keywords = {"eps": 0.1, "n_queries": 60, "n_restarts": 2, "seed": 3}
    expected = square(model.double(), x.double(), y, sample_ids=ids, **keywords)
    order = torch.randperm(40) if options.pop("order", False) else torch.arange(40)
    found = square(model, x[order].double(), y[order], sample_ids=ids[order], **keywords, **options)
    model.float()
    torch.testing.assert_close(found, expected[order], rtol=0, atol=1e-12)


def test_another_seed_or_id_is_another_search(trained):
    model, x, y = trained
    x, y = x[:30], y[:30]
    once, again, other = (square(model, x, y, eps=0.25, n_queries=50, seed=s) for s in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once, square(model, x, y, eps=0.25, n_queries=50, sample_ids=100 + torch.arange(30)))


def test_it_needs_no_gradient(trained):
    model, x, y = trained

    def signs(x):
        return model((20 * x).round() / 20)  # whose gradient is zero

    result = square(signs, x, y, eps=0.12, n_queries=100, return_info=True)
    assert result.reached.sum() > (signs(x).argmax(1) != y).sum()


def test_it_needs_images(trained):
    model = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"square needs images \(N, C, H, W\), got shape \(3, 4\)"):
        square(model, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("chunk", [None, 2])
def test_squares_that_change_nothing_are_passed_over_and_change_nothing(chunk, monkeypatch):
    # One channel: half of all squares of one pixel. Passing over them is the same search with fewer looks.
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    model = model.double().eval()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    looks: list[int] = []
    model.register_forward_hook(lambda _module, given, _out: looks.append(len(given[0])))
    found, made = {}, {}
    for most in (0, square_steps._PASSED_OVER, 5):
        monkeypatch.setattr(square_steps, "_PASSED_OVER", most)
        looks.clear()
        found[most] = square(
            model, x, y, eps=0.02, n_queries=3000, seed=3, chunk_size=chunk, engine="eager", return_info=True
        )
        made[most] = sum(looks)
    usual = found[0]
    assert not usual.reached.all()
    for most, other in found.items():
        assert torch.equal(other.x_adv, usual.x_adv), most
        # A query counts whether it was looked at or not; one that is found leaves at the end of its round.
        assert torch.equal(other.steps[~usual.reached], usual.steps[~usual.reached]), most
    assert made[square_steps._PASSED_OVER] < 0.75 * made[0]
