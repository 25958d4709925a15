# ruff: noqa: RUF009 - these calls make fields, or immutable numbers
"""The sections of a configuration: dataclasses whose field docstrings are the command line's help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fairtat.fairness import RENAMED_RULES, WEIGHT_RULES
from fairtat.training.config.values import (
    Number,
    at_least,
    below_1,
    choice_or_code,
    not_negative,
    positive,
    random_seed,
    share,
    shares,
    unit,
)

__all__ = [
    "AttackConfig",
    "DataConfig",
    "DistillConfig",
    "EvalConfig",
    "FairnessConfig",
    "ModelConfig",
    "ObjectiveConfig",
]


@dataclass(frozen=True)
class DataConfig:
    """What to train on, and how it is split."""

    name: str = "digits"
    """digits (1,797 images of 1x8x8), mnist5k (5,000 of 1x28x28), cifar10, cifar100, tinyimagenet, hf:NAME (a set of
    Hugging Face `datasets`), a folder with one subfolder of images per class, or a .npz file with the arrays images
    (uint8, or floats in [0, 1]), labels (whole numbers from 0, or text) and, if you like, class_names; a .parquet file
    of image bytes and labels, as Hugging Face datasets write it (a shard stands for all); or module:function of your
    own, which is called with the options and returns the images (see docs/extending.md)."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for a module:function, for example {year: 2024}."""

    root: str | None = None
    """Where the files of cifar10, cifar100 and tinyimagenet lie; null is the folder data."""

    download: bool = False
    """Fetch cifar10 and cifar100 into root when they are not there (needs torchvision)."""

    val: Number = share(0.15)
    """Share of each class that is kept for validation: shown after every epoch, never trained on."""

    test: Number = share(0.2)
    """Share of each class that is kept for `fairtat evaluate`: training never touches it. Data that come with a
    test set, such as cifar10, use that instead."""

    test_file: str | None = None
    """For a .npz or .parquet file without a test set: another one that has it."""

    groups: str = "auto"
    """Groups of images that must stay on one side of a split, such as the frames of one video: an array of the .npz
    file, or a .csv file with a column group and one row for each training image in their order, or with a column file
    too (paths below the folder of images). auto takes the array groups where the file has it, none takes none."""

    balance: Number = unit(0.0)
    """Draw the classes of an epoch more evenly than they are: class k with a share proportional to n_k^(1 - balance); 0
    draws each image once, 0.5 by square roots, 1 all classes alike."""

    extra: str | None = None
    """A .npz file of images for training beside the data's own, such as generated ones: images (or image) and labels
    (or label). They are in no split, and the class statistics do not count them."""

    extra_share: Number = share(0.7)
    """Share of the extra images in every batch, rounded down. An epoch has as many steps as without them."""

    pseudo_labels: str | None = None
    """Run folder whose model labels the extra images that have no label, or -1."""

    augment: Literal["none", "flip", "crop_flip"] = "none"
    """Training images: as they are, mirrored at random, or shifted too by up to pad pixels (reflected at the edge)."""

    pad: int = at_least(0, 4)
    """How far crop_flip shifts, in pixels."""

    placement: Literal["auto", "device", "stream"] = "auto"
    """Where the images wait: all on the device as uint8, or read batch by batch by worker processes; auto streams
    folders and Hugging Face sets that do not fit."""

    workers: int = at_least(0, 4)
    """Processes that read images when they are streamed."""

    image_size: int | None = at_least(1, None)
    """Scale the images of folders and Hugging Face sets until they cover a square of this many pixels per side, and cut
    out its middle; null expects images of one size."""

    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    """Which axis of the images in a .npz file holds the channels, where they have four; auto takes the one of axes 1
    and 3 that has 1 or 3."""

    exif: Literal["apply", "ignore"] = "apply"
    """Images of folders and Hugging Face sets: turned as their EXIF orientation says, or left as they are stored, which
    is what most models have been trained on."""

    seed: int = random_seed(0)
    """Seed of the split. Apart from `seed`, so that runs with several seeds share their test images."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "digits_cnn"
    """digits_cnn, mnist_cnn, mlp, preact_resnet8, preact_resnet18, wrn28_10, wrn34_10, timm:NAME (any model of
    timm), hf:ORG/MODEL (a model of timm on the Hugging Face Hub), robustbench:DATASET/THREAT/NAME (both with their
    published weights), or module:function of your own, which is called with num_classes, in_channels,
    image_size=(H, W) and the options, and returns a torch.nn.Module."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for that function, for example {width: 64}."""

    weights: str | None = None
    """Weights to start from, in place of random ones, of a model with the same layers: a .safetensors file, a PyTorch
    checkpoint, a run folder, hf:ORG/MODEL[/FILE], robustbench:DATASET/THREAT/NAME, or timm for those that timm
    publishes for timm:NAME. No code in a file is run. A resumed run does not need it."""

    new_head: bool = False
    """Take weights with other classes than the data: all but the last layer, which starts from random weights. false
    refuses them."""

    download: bool = False
    """Fetch hf:, robustbench: and timm's weights from the network where they are not on this machine: below the folder
    models, or in the Hub's cache."""

    mean: list[Number] | None = None
    """Mean of each channel, or one number, by which the model normalizes images itself: it computes with
    (x - mean) / std, while images and radii stay in pixel units. null: with images in [0, 1] as they are."""

    std: list[Number] | None = None
    """Standard deviation of each channel, or one number; goes with mean."""


@dataclass(frozen=True)
class AttackConfig:
    """The attack that makes the training examples. Radii are in pixel units, where images lie in [0, 1]."""

    name: Literal["pgd", "apgd"] = "pgd"
    """pgd, or apgd (Croce and Hein, 2020): steps with momentum whose length adapts to each image, from twice the radius
    on, and the example of the largest loss counts; costs steps + 2 passes, in eval-mode BatchNorm."""

    eps: Number = not_negative("8/255")
    """Radius of the attack; the margin rules scale it class by class. Fractions such as 8/255 are fine."""

    step_size: Number = not_negative("2/255")
    """Length of one step."""

    steps: int = at_least(0, 10)
    """Number of steps: each costs one forward and one backward pass."""

    rel_step: Number | None = positive(None)
    """Length of one step as a multiple of each image's radius, in place of step_size: 1.25 for single-step training
    from a random start (FGSM-RS)."""

    noise: Number | None = positive(None)
    """N-FGSM (de Jorge et al., 2022): start from uniform noise of so many radii around the image, and do not project
    the steps on the ball; 2 in the paper, with steps 1 and rel_step 1. null is the usual attack."""

    norm: Literal["linf", "l2"] = "linf"
    """Norm in which the radius is measured."""

    momentum: Number = not_negative(0.0)
    """Share of earlier gradients that a step keeps (MI-FGSM; Dong et al., 2018); 0 is the usual attack."""

    eot: int = at_least(1, 1)
    """Passes for a step, which goes along their mean gradient: for models that draw random numbers."""

    loss: str = choice_or_code("auto", ("auto", "ce", "margin", "dlr"))
    """Loss that the attack follows: cross-entropy, Carlini-Wagner margin, or difference of logits ratio; or
    module:function of your own, which takes logits (N, C) and labels or targets (N,) and returns losses (N,). auto is
    what the objective's authors use: cross-entropy, except the divergence from the clean prediction for untargeted
    trades, bat and csr, and from the teacher's for rslad and absld."""

    init: Literal["auto", "uniform", "normal", "zero"] = "auto"
    """Start: uniform in the ball, a little Gaussian noise, or the image itself. auto is what the objective's authors
    use: uniform for at, fat and ard, normal for the others."""

    restarts: int = at_least(1, 1)
    """Attacks from different starts, of which the strongest counts; the cost grows in proportion."""

    bn_mode: Literal["eval", "train", "train_frozen_stats"] = "eval"
    """BatchNorm while attacking: running statistics, batch statistics as the published codes do, or batch statistics
    that leave the running ones alone."""

    backend: Literal["auto", "cpu", "cuda", "triton", "reference"] = "auto"
    """Kernels of the attack; auto takes the fastest present (see `fairtat doctor`)."""

    engine: Literal["auto", "eager", "compiled", "graph", "compiled_graph"] = "auto"
    """How the attack's steps run, in training and validation: compiled makes a graph of them for the first batch, which
    takes seconds for a small network and half a minute for a ResNet, and is faster from then on; graph replays CUDA
    graphs, compiled_graph those of the compiled program. auto is graph on a GPU; on a CPU it is settled before the
    first step, for the whole run: compiled where the run is long enough to pay for a build and compiled attacks are
    faster on a batch, else eager."""

    engine_check: Literal["first", "always", "off"] = "first"
    """Compare a compiled program's or graph's first pass with the model's: once after it was built, in every step (for
    a model that reads global variables or files which change), or never."""

    @property
    def shared_options(self) -> dict[str, Any]:
        """Options of `fairtat.fast_pgd` that are the same in training and validation."""
        return {"norm": self.norm, "engine": self.engine, "engine_check": self.engine_check}


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a training step minimizes. Each objective takes targeted and untargeted attacks (`fairness.targets`)."""

    name: str = choice_or_code(
        "at", ("at", "trades", "fat", "mart", "bat", "csr", "ham", "taet", "ard", "rslad", "absld")
    )
    """at: cross-entropy on the adversarial examples (Madry et al., 2018); trades: clean cross-entropy and beta times
    the divergence between clean and adversarial predictions (Zhang et al., 2019); fat: at on examples that stop tau
    steps after they cross the boundary (Zhang et al., 2020); mart: boosted cross-entropy and a divergence that counts
    misclassified samples more (Wang et al., 2020); bat: cross-entropy on the last example of the attack that is right,
    beta times the divergence of the first wrong one, and predictions on both that are spread over the classes (Sun et
    al., 2023; untargeted); csr: trades with weight on the confusions that carry the spectral norm of the adversarial
    confusion matrix (Jin et al., 2025); ham: at on the examples that are wrong early on the way of their attack (Lin et
    al., 2024); taet: mean, spread and shares of the class losses, for long-tailed data (Wang et al., 2025); ard, rslad,
    absld: robust distillation from the teacher of distill (Goldblum et al., 2020; Zi et al., 2021; Zhao et al., 2024;
    untargeted); or module:function of your own, which is called with the configuration and the options, and returns an
    Objective."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for a module:function, for example {power: 2}."""

    beta: Number = not_negative(6.0)
    """Weight of the divergence in trades, mart, bat and csr."""

    csr: Number = unit(0.3)
    """Share of the spectral term in csr; the rest is cross-entropy on clean images."""

    ccr: bool = False
    """Let beta follow the class robustness as CFA does in trades: (1 - b_k) CE + b_k KL with
    b_k = (lam + A_k) beta / (1 + (lam + A_k) beta)."""

    ccr_lam: Number | None = not_negative(None)
    """The constant lam in ccr; null takes fairness.lam."""

    tau: int = at_least(0, 3)
    """Steps that fat makes after a sample has crossed the boundary."""

    tau_milestones: list[Number] = shares([])
    """Shares of all epochs after which fat's tau is one larger: the authors' dynamic tau is 0 with [50/120, 90/120]."""

    begin: Number = unit(0.0)
    """Share of all epochs before ham drops examples, and in which taet trains on clean images."""

    mining_step: int = at_least(1, 3)
    """Steps of the attack after which ham drops the examples that are still right."""

    equalize: list[Number] = field(default_factory=lambda: [Number(0.1)] * 3)
    """[a, b, g] of taet: weights of the mean of the class losses, of their variance, and of the sum of their squared
    shares."""

    label_smoothing: Number = below_1(0.0)
    """Share of the label's probability that is spread over all classes in cross-entropy."""

    grad_align: Number = not_negative(0.0)
    """GradAlign (Andriushchenko and Flammarion, 2020): weight in at of 1 - cos between the input gradients at the image
    and at a random point of its ball, which keeps single-step training from overfitting to single steps; 0.2 in the
    paper for radius 8/255. It costs two passes forward and back, and their derivative. 0 turns it off."""

    faal: Number | None = not_negative(None)
    """FAAL (Zhang et al., CVPR 2024): in every batch, weight classes by the distribution within this Kullback-Leibler
    divergence of the uniform one that is worst for the model; 0.5 in the paper, null turns it off. It multiplies the
    loss of at, fat, trades or mart; each part of a batch (accumulate, processes) has a distribution of its own."""


@dataclass(frozen=True)
class FairnessConfig:
    """How targets and radii follow the classes' robustness. The defaults are ordinary adversarial training; FAIR-TAT
    is targets cfps with margins G-rob."""

    targets: Literal["none", "random", "cfps", "confusion"] = "none"
    """none attacks away from the label; the others move each example towards a class that is drawn uniformly, by how
    many false positives it attracts, or by how often the true class is taken for it."""

    targeted: Literal["all", "easy"] = "all"
    """Which samples are moved towards their targets: all, or those of classes that the model finds easier than the
    average of the batch, while the others are moved away from their labels (TRIX). Each part of a batch (accumulate,
    processes) has its own average."""

    margins: str | list[str] = "fixed"
    """Radius of each class: fixed, or (lam + scale * s) * eps with s from G-rob (robust accuracy), G-cfps, G-cfns
    (shares of false positives and negatives), or their twins T-rob, T-cfps, T-cfns relative to the target. A list
    combines."""

    lam: list[Number] | Number = Number(0.5)
    """The constant in (lam + scale * s) * eps: 0.5 lets G-rob's radii run from half to one and a half times eps. A list
    has one for each of several margins."""

    scale: list[Number] | Number = Number(1.0)
    """What s is multiplied by; the published G-cfps and T-cfps have 2. A list has one for each of several margins."""

    mean_eps: Literal["free", "keep"] = "free"
    """keep rescales the radii of an epoch so that their mean over the training images is eps: without it, part of what
    a margin rule gains in robustness comes from the larger mean radius."""

    tau: Number | Literal["auto"] = Number(2.0)
    """Temperature of the targets: 0 is uniform, larger values go for confusing classes more often. The shares of false
    positives sum to one, so with ten classes the published 2 is nearly uniform: 0.09 to 0.12 for each class. auto takes
    the temperature by which the likeliest target is tau_ratio times as likely as the unlikeliest."""

    tau_ratio: Number = Number(4.0)
    """Largest to smallest probability of a target where tau is auto."""

    combine: Literal["avg", "min"] = "avg"
    """How the radii of several margin rules become one."""

    clamp: list[Number] | None = None
    """[low, high] bounds of the adapted radii in pixel units, or null."""

    begin: int = 1
    """How many epochs pass before the rules apply; until then targets are uniform and radii are eps."""

    weights: str = choice_or_code("none", ("none", *WEIGHT_RULES), renamed=RENAMED_RULES)
    """How classes are weighted: none, dafa, frl, wat, cfol, fair_ard, even_success (see `fairtat.fairness.weights`), or
    module:function of your own, which is called with the number of classes, device and weight_options, and returns a
    WeightRule."""

    weight_options: dict[str, Any] = field(default_factory=dict)
    """Settings of that rule, for example {warmup: 70, lam: 1.0} for dafa."""


@dataclass(frozen=True)
class DistillConfig:
    """The teacher of the objectives ard, rslad and absld, and how they learn from it."""

    teacher: str | None = None
    """Its network, as model.name; null takes that of model."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for that network, as model.options."""

    mean: list[Number] | None = None
    """Mean of each channel by which it normalizes images, as model.mean."""

    std: list[Number] | None = None
    """Standard deviation of each channel; goes with mean."""

    weights: str | None = None
    """Its weights: a .safetensors file, a PyTorch checkpoint, or a run folder. No code in a file is run."""

    temperature: Number = positive(30.0)
    """By which ard divides the logits of both networks."""

    alpha: Number = unit(1.0)
    """Share of the distillation in ard; the rest is cross-entropy on clean images."""

    natural: Number = unit("1/6")
    """Share of the clean images' term in rslad and absld."""

    temperature_rate: Number = not_negative(0.1)
    """How far an epoch moves the class temperatures of absld, at most; it falls with the learning rate."""


@dataclass(frozen=True)
class EvalConfig:
    """The untargeted attack on the validation set after every epoch: cheap figures to watch."""

    steps: int = at_least(0, 10)
    """Number of steps."""

    eps: Number | None = not_negative(None)
    """Radius, the same for every class; null takes attack.eps."""

    step_size: Number | None = not_negative(None)
    """Length of one step; null takes attack.step_size."""

    restarts: int = at_least(1, 1)
    """Attacks from different starts, of which the strongest counts."""

    batch_size: int = at_least(1, 512)
    """Images at a time."""

    fgsm: Literal["auto", True, False] = "auto"
    """Also attack by a single step of eps, and warn of catastrophic overfitting: a model that resists single steps and
    falls to several. auto: where attack.steps is 1."""
