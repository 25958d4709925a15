"""What the figures say, in sentences that are computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairtat.evaluation.corruptions import mce
from fairtat.evaluation.metrics.accuracies import Accuracies
from fairtat.evaluation.metrics.bootstrap import paired_bootstrap
from fairtat.evaluation.metrics.figures import rho
from fairtat.evaluation.result import Evaluation
from fairtat.evaluation.text.wording import ascii_minus, between, called, percent, points, size

if TYPE_CHECKING:
    from fairtat.evaluation.compare import Change, Comparison

__all__ = ["Story", "against_baseline", "beside_baseline", "lowest_of", "of_one_run"]

NAMED = 4
"""Classes that a sentence names before it counts the rest."""


@dataclass(frozen=True)
class Story:
    """``headline`` is the one sentence to remember; ``details`` are whole sentences."""

    run: str
    headline: str
    details: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """All of it, in order."""
        return [self.headline, *self.details]

    @property
    def plain(self) -> list[str]:
        """The same for terminals and files: ASCII, except for names."""
        return [ascii_minus(sentence) for sentence in self.sentences]


def against_baseline(comparison: Comparison, name: str) -> Story:
    """Which classes gained or lost, and what is noise: one run against the first one."""
    changes = [change for change in comparison.changes(name) if change.n]
    gap = comparison.figure_change(name, "gap")
    average, clean = comparison.average_change(name), comparison.average_change(name, "clean")
    return Story(
        run=name,
        headline=_who_gained(changes),
        details=(
            _worst(comparison, name),
            f"Robust accuracy over all images went {_from_to(average.before, average.after)}, "
            f"{points(average.difference)} {between(average.interval)}{_noise(average.clear)}; clean accuracy "
            f"{_from_to(clean.before, clean.after)}, {points(clean.difference)} "
            f"{between(clean.interval)}{_noise(clean.clear)}.",
            f"Best and worst class are {100 * gap.after:.1f} points apart instead of {100 * gap.before:.1f}: "
            f"{points(gap.difference)} {between(gap.interval)}{_noise(gap.clear)}.",
            _one_image([change.n for change in changes]),
        ),
    )


def beside_baseline(name: str, evaluation: Evaluation, baseline: Evaluation) -> Story:
    """One evaluation compared with an earlier one of the same images, possibly under another attack."""
    gain = paired_bootstrap(baseline, evaluation)
    details = []
    if baseline.attack != evaluation.attack:
        details.append(f"The attacks differ: {baseline.attack} against {evaluation.attack}.")
    errors, of_baseline = evaluation.corruption_errors(), baseline.corruption_errors()
    if errors and set(errors) <= set(of_baseline):
        details.append(f"mCE relative to the baseline: {mce(errors, of_baseline):.3f}.")
    return Story(
        run=name,
        headline=f"Against the baseline, the worst class went {_from_to(gain.before, gain.after)}: "
        f"{points(gain.difference)} points {between(gain.interval)}{_noise(gain.clear)}; "
        f"rho {rho(baseline.robust, evaluation.robust):+.3f}.",
        details=tuple(details),
    )


def of_one_run(name: str, evaluation: Evaluation) -> Story:
    """Which class is worst, and which class attracts the errors."""
    robust, names = evaluation.robust, evaluation.class_names
    worst, value = robust.worst
    present = [k for k, n in enumerate(robust.n) if n]
    best = max(present, key=lambda k: robust.accuracy[k])
    low, high = robust.interval[worst]
    details = [
        f"Over all images {percent(robust.average)}% are right under attack and "
        f"{percent(evaluation.clean.average)}% without."
    ]
    if robust.gap:
        details.append(f"The best class, {names[best]}, is {100 * robust.gap:.1f} points above the worst.")
    if len(present) > 1:
        details.append(lowest_of(robust, names))
    if sum(robust.n) > sum(robust.correct):
        magnet = max(range(len(names)), key=lambda k: robust.cfps[k])
        details.append(
            f"{percent(robust.cfps[magnet], 0)}% of all errors under attack land on {called(names[magnet])}."
        )
    return Story(
        run=name,
        headline=f"{_start(called(names[worst]))} is the worst class of {name}: {percent(value)}% of its images "
        f"withstand the attack [{percent(low)}, {percent(high)}].",
        details=tuple(details),
    )


def lowest_of(figures: Accuracies, names: Sequence[str]) -> str:
    """What the figure of the worst class is worth: it was chosen because it came out lowest."""
    worst, value = figures.worst
    classes, lowest = sum(n > 0 for n in figures.n), figures.lowest
    low, high = lowest.simultaneous[worst]
    bias = (
        "there is next to no bias in it"
        if percent(lowest.corrected) == percent(value)
        else f"it is biased low: corrected, {percent(lowest.corrected)}%"
    )
    return (
        f"{percent(value)}% is the lowest of {classes} estimates, and {bias}. The lowest true accuracy, "
        f"whichever has it, lies in [{percent(lowest.interval[0])}, {percent(lowest.interval[1])}], and that of "
        f"{called(names[worst])} in [{percent(low)}, {percent(high)}] (95% for all {classes} "
        "at once, by Sidak's correction of Clopper-Pearson intervals)."
    )


def _who_gained(changes: list[Change]) -> str:
    gained = sorted((c for c in changes if c.clear and c.difference > 0), key=lambda c: -c.difference)
    lost = sorted((c for c in changes if c.clear and c.difference < 0), key=lambda c: c.difference)
    rest = [c for c in changes if not c.clear]
    parts = [_listed(of, verb) for of, verb in ((gained, "gained"), (lost, "lost")) if of]
    if not parts:
        return _only_noise(rest)
    if rest:
        largest = max(rest, key=lambda c: abs(c.difference))
        others = f"the other {len(rest)} classes" if len(rest) > 1 else called(largest.name)
        parts.append(f"{others} moved by {'at most ' if len(rest) > 1 else ''}{size(largest.difference)}, within noise")
    return _start("; ".join(parts)) + "."


def _listed(changes: list[Change], verb: str) -> str:
    most = changes[0]
    first = f"{size(most.difference)} points of robust accuracy {between(most.interval)}"
    others = [f"{size(c.difference)} {between(c.interval)}" for c in changes[1:NAMED]]
    named = [
        f"{called(most.name)} {verb} {first}",
        *(f"{called(c.name)} {figures}" for c, figures in zip(changes[1:NAMED], others, strict=True)),
    ]
    if len(changes) > NAMED:
        named.append(f"{len(changes) - NAMED} more classes")
    return _and(named)


def _only_noise(changes: list[Change]) -> str:
    largest = max(changes, key=lambda c: abs(c.difference))
    if not largest.difference:
        return "No class's robust accuracy changed."
    return (
        "No class moved by more than the choice of test images explains; the largest change is "
        f"{called(largest.name)}, {points(largest.difference)} points {between(largest.interval)}."
    )


def _worst(comparison: Comparison, name: str) -> str:
    """The worst class is the lowest of all, so its interval is not that of one class: said where both can be seen."""
    drawn = comparison.figure_change(name, "worst")
    (was, _), (now, _) = comparison.baseline.robust.worst, comparison.evaluations[name].robust.worst
    names = [called(comparison.class_names[k]) for k in (was, now)]
    moved = "rose" if drawn.difference > 0 else "fell" if drawn.difference < 0 else "stays"
    sentence = (
        f"The worst class {moved} "
        + (f"at {percent(drawn.after)}%" if not drawn.difference else _from_to(drawn.before, drawn.after))
        + f" ({names[0]}{f', now {names[1]}' if was != now else ''}): {points(drawn.difference)} points "
        f"{between(drawn.interval)}{_noise(drawn.clear)}."
    )
    own = comparison.changes(name)[now]
    if was == now and between(own.interval) != between(drawn.interval):
        verdict = "" if own.clear == drawn.clear else f", {'beyond' if own.clear else 'within'} noise"
        sentence += (
            f" The interval is that of the lowest of {sum(n > 0 for n in comparison.baseline.robust.n)} classes, "
            f"which may be another one on other images; {names[1]} alone has {between(own.interval)}{verdict}."
        )
    return sentence


def _one_image(n: list[int]) -> str:
    """What the figures of classes of these sizes can resolve."""
    smallest, largest = min(n), max(n)
    if smallest == largest:
        return f"With {_images(largest)} per class, one image is {100 / largest:.1f} points."
    return (
        f"One image is {100 / smallest:.1f} points of the smallest class ({_images(smallest)}) and "
        f"{100 / largest:.1f} of the largest ({_images(largest)})."
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _from_to(before: float, after: float) -> str:
    return f"from {percent(before)} to {percent(after)}%"


def _noise(clear: bool) -> str:
    return "" if clear else ", within noise"


def _start(sentence: str) -> str:
    """Capitalize fairtat's own word; a name stays as it is."""
    return f"C{sentence[1:]}" if sentence.startswith("class ") else sentence


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
