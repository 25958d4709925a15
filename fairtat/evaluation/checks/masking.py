"""Signs of gradient masking, which makes robust accuracy look too good.

They are those of Athalye et al. 2018 (arXiv:1802.00420) and Carlini et al. 2019 (arXiv:1902.06705): gradients that
vanish, one step that beats many, an attack without gradients that beats one with them, and a model that survives a
radius at which every image can be turned into any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairtat.evaluation.attacks.classifier import Classifier
from fairtat.evaluation.attacks.names import Defaults
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.checks.finding import Finding
from fairtat.evaluation.evaluator import Evaluator
from fairtat.evaluation.images import Images
from fairtat.evaluation.samples import Predictions

PROBED = 64  # correctly classified images on which the signs are looked for
QUERIES = 60  # of the random search
MANY = 0.1  # share of probed images from which a sign is reported
CHANCE = 0.01  # one-sided: how often a weaker attack may look stronger by luck
FOUND, LONGEST = 8, 2000  # findings of the probe, and letters of one, that a kept answer has room for


class _WeakerWins(NamedTuple):
    """A weak attack that fools more images than a strong one."""

    id: str
    about_the_weak: str
    reason: str

    def found(self, weak: tuple[str, np.ndarray], strong: tuple[str, np.ndarray]) -> list[Finding]:
        """The finding, if it is there, for two attacks' names and what they fooled, (N,) bool."""
        if not _beats(weak[1], strong[1]):
            return []
        text = (
            f"{weak[0]}{self.about_the_weak} fooled the model on {int(weak[1].sum())} of {len(weak[1])} images, "
            f"{strong[0]} on only {int(strong[1].sum())}. {self.reason}: a sign of gradient masking."
        )
        return [Finding(self.id, "warning", text)]


_FGSM_WINS = _WeakerWins(
    "gradient-masking:fgsm-beats-pgd",
    "",
    "Many small steps cannot be weaker than one large one unless gradients mislead",
)
_BLACK_BOX_WINS = _WeakerWins(
    "gradient-masking:black-box-beats-white-box",
    ", which sees no gradient,",
    "With useful gradients it would be the other way round",
)


def check_outcomes(images: Images, attacked: Mapping[str, tuple[AttackSettings, Predictions]]) -> list[Finding]:
    """Signs in the outcomes of attacks that share norm and radius: a weak one that beats a strong one."""
    label = images.labels.numpy()
    findings = []
    fooled = {
        settings.attack: (name, predictions.pred != label)
        for name, (settings, predictions) in attacked.items()
        if settings.attack != "pgd" or _crosses(settings)
    }
    for weak, strong, sign in (
        ("fgsm", "pgd", _FGSM_WINS),
        ("square", "pgd", _BLACK_BOX_WINS),
        ("noise", "pgd", _BLACK_BOX_WINS),
        ("square", "apgd-ce", _BLACK_BOX_WINS),
    ):
        if weak in fooled and strong in fooled:
            findings += sign.found(fooled[weak], fooled[strong])
    return findings


def _crosses(settings: AttackSettings) -> bool:
    """Whether enough steps are taken to get anywhere in the ball: FGSM beats fewer, and no gradient is to blame."""
    return settings.steps >= 10 and settings.steps * (settings.step_size or 0.0) >= 2 * settings.eps


def probe(work: Evaluator, defaults: Defaults) -> list[Finding]:
    """Attack a few dozen images in ways that a sound model loses in a known order, and tell where it does not."""
    if defaults.eps == 0:
        return []
    about = {"eps": defaults.eps, "norm": defaults.norm, "seed": defaults.seed}
    question = {"kind": "sanity", **work.classifier.computed_by(), **about}
    kept = np.zeros(FOUND, f"U{LONGEST}")
    findings = None
    with work.answers.begin(question, "sanity checks", {"findings": kept}, 1, gradient=True) as answer:
        if answer.done.any() and _unpacked(kept) is None:
            answer.done[:] = 0
        for item in answer.batches(np.flatnonzero(answer.done == 0), 1):
            findings = _probe(work, defaults)
            kept[...] = ""
            kept[: len(findings)] = [json.dumps(finding.to_dict()) for finding in findings]
            answer.advance(item)
    return findings if findings is not None else _unpacked(kept) or []


def _unpacked(kept: np.ndarray) -> list[Finding] | None:
    """The findings of a kept answer; None if it holds something else, which must not reach a terminal."""
    try:
        findings = [Finding(**json.loads(text)) for text in kept if text]
    except (ValueError, TypeError):
        return None
    words = [word for finding in findings for word in (finding.id, finding.severity, finding.text)]
    return findings if all(isinstance(word, str) and word.isprintable() for word in words) else None


def _probe(work: Evaluator, defaults: Defaults) -> list[Finding]:
    classifier = work.classifier
    right = np.flatnonzero(work.clean().pred == work.label)
    if len(right) == 0:
        return []
    chosen = right[np.linspace(0, len(right) - 1, min(PROBED, len(right))).astype(int)]
    x, y, ids = work.images.draw(torch.from_numpy(chosen), classifier.device)
    low, high = classifier.bounds
    largest = 0.5 * (high - low) * (1 if defaults.norm == "linf" else math.sqrt(x[0].numel()))

    def settings(attack: str, eps: float, steps: int) -> AttackSettings:
        return AttackSettings(attack, eps, defaults.norm, steps, eps / 4, seed=defaults.seed, active_set=False)

    def fooled(attack: AttackSettings) -> np.ndarray:
        return (classifier.attack(x, y, ids, attack).pred != y).cpu().numpy()

    judged = classifier.attack(x, y, ids, settings("pgd", defaults.eps, 20))
    by_pgd = "PGD-20", (judged.pred != y).cpu().numpy()
    by_fgsm = "FGSM", fooled(AttackSettings("fgsm", defaults.eps, defaults.norm, 1))
    by_search = "random search", _random_search(classifier, x, y, defaults)
    without = float((judged.zero_grad >= 10).double().mean())
    survived = float(1 - fooled(settings("pgd", largest, 20)).mean())

    findings = []
    if not torch.equal(classifier.logits(x, seed=1), classifier.logits(x, seed=2)):
        findings.append(Finding("model:random", "warning", _RANDOM))
    if without >= MANY:
        text = _ZERO_GRADIENTS.format(share=without, images=len(y))
        findings.append(Finding("gradient-masking:zero-gradients", "warning", text))
    findings += _FGSM_WINS.found(by_fgsm, by_pgd) + _BLACK_BOX_WINS.found(by_search, by_pgd)
    if survived >= MANY:
        text = _SURVIVES.format(share=survived, images=len(y), norm=defaults.norm, eps=largest)
        findings.append(Finding("gradient-masking:survives-large-eps", "warning", text))
    return findings


_RANDOM = (
    "The model's logits differ from call to call on the same images. Attack it with gradients averaged over many "
    "calls, and average its predictions over many calls; otherwise its robustness is luck."
)
_ZERO_GRADIENTS = (
    "On {share:.0%} of {images} images the gradient was zero everywhere in most steps, so gradient attacks had nothing "
    "to follow, and the robust accuracy is not evidence of robustness. Quantized inputs, saturated softmax (very large "
    "logits) and detached layers do this; attack with square, or a smooth approximation."
)
_SURVIVES = (
    "{share:.0%} of {images} images were still right at {norm} radius {eps:.3g}, where any image can be turned into "
    "plain gray, so robust accuracy must be about 0. The attack fails, but not because the model is robust."
)


def _beats(weak: np.ndarray, strong: np.ndarray) -> bool:
    """Whether the weak attack fooled more by more than luck: the sign test on images that one alone fooled."""
    weak_only, strong_only = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    n = weak_only + strong_only
    tail = sum(math.comb(n, k) for k in range(weak_only, n + 1)) / 2**n
    return weak_only > strong_only and tail < CHANCE


def _random_search(classifier: Classifier, x: Tensor, y: Tensor, defaults: Defaults) -> np.ndarray:
    """(n,) bool: fooled by squares of random sign, kept where they lower the margin.

    A short form of the Square attack (Andriushchenko et al. 2020, arXiv:1912.00049) that needs no library.
    """
    generator = torch.Generator().manual_seed(defaults.seed % 2**63)
    best, best_margin = x, classifier.judge(x, y).margin
    sides = x.shape[2:] if x.ndim == 4 else (1, x[0].numel())
    for query in range(QUERIES):
        share = 0.6 * (1 - query / QUERIES) ** 2 + 0.02
        height, width = (max(1, round(math.sqrt(share) * side)) for side in sides)
        top = int(torch.randint(sides[0] - height + 1, (), generator=generator))
        left = int(torch.randint(sides[1] - width + 1, (), generator=generator))
        where = torch.zeros(sides, dtype=torch.bool)
        where[top : top + height, left : left + width] = True
        where = where.view(sides if x.ndim == 4 else x.shape[1:]).to(x.device)
        sign = 2 * torch.randint(2, (len(x), x.shape[1], *[1] * (x.ndim - 2)), generator=generator).to(x) - 1
        if defaults.norm == "linf":
            moved = torch.where(where, x + defaults.eps * sign, best)
        else:
            delta = (best - x) + torch.where(where, sign, 0.0) * defaults.eps / math.sqrt(x[0].numel() * share)
            size = delta.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
            moved = x + delta * (defaults.eps / size.clamp(min=1e-12)).clamp(max=1)
        moved = moved.clamp(*classifier.bounds)
        margin = classifier.judge(moved, y).margin
        better = margin < best_margin
        best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), moved, best)
        best_margin = torch.where(better, margin, best_margin)
    return (best_margin < 0).cpu().numpy()
