"""The pictures are the points that the evaluation counted, and the perturbations fit in its radius."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from torch import nn

from fairtat.data import ImageData, image_data
from fairtat.evaluation import Evaluation, evaluate
from fairtat.evaluation.report import Gallery, make_gallery

picture = pytest.importorskip("PIL.Image")

CLASSES = 3
EPS = 24 / 255


def pixels(uri: str) -> np.ndarray:
    prefix, _, data = uri.partition(",")
    assert prefix == "data:image/png;base64"
    return np.asarray(picture.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def classifier(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, CLASSES)).eval()


@pytest.fixture(scope="module")
def data() -> ImageData:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = classifier(0)(images / 255).argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES
    return image_data("noise", images, labels, class_names=("cat", "dog", "ship"))


def gallery_of(data: ImageData, attack: str, **settings: object) -> tuple[Gallery, dict[str, Evaluation]]:
    models = {"at": classifier(0), "fair": classifier(0)}
    with torch.no_grad():
        for parameter in models["fair"].parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    evaluations = {
        name: evaluate(model, data, attacks=[attack], eps=EPS, check_sanity=False, **settings)  # type: ignore[arg-type]
        for name, model in models.items()
    }
    return make_gallery(models, data, evaluations, count=3), evaluations


@pytest.mark.parametrize("attack", ["pgd-5", "fgsm", "cw-5"])
@pytest.mark.parametrize("active_set", [True, False])
def test_predictions_are_those_of_the_evaluation(data: ImageData, attack: str, active_set: bool) -> None:
    gallery, evaluations = gallery_of(data, attack, active_set=active_set)
    assert sorted(image.label for image in gallery.images) == ["cat", "dog", "ship"]
    for image in gallery.images:
        for view, evaluation in zip(image.views, evaluations.values(), strict=True):
            assert evaluation.samples is not None
            at = list(evaluation.samples.sample_ids).index(image.sample_id)
            counted = evaluation.class_names[evaluation.samples.pred_of("robust")[at]]
            assert view.predicted == counted
            assert view.clean == evaluation.class_names[evaluation.samples.pred_of("clean")[at]]
            assert view.fooled == (counted != image.label)


def test_pictures_stay_in_the_radius_and_the_amplified_difference_shows_it(data: ImageData) -> None:
    gallery, _ = gallery_of(data, "pgd-5")
    for image in gallery.images:
        clean = pixels(image.clean_uri)
        assert (clean == data.images[int(image.sample_id)].permute(1, 2, 0).numpy()).all()
        for view in image.views:
            for uri, shown in (
                (view.adversarial_uri, view.perturbation_uri),
                (view.targeted_uri, view.targeted_perturbation_uri),
            ):
                change = pixels(uri) - clean
                assert abs(change).max() <= 24
                assert abs(pixels(shown) - (127.5 + change * 127.5 / 24)).max() <= 4  # a pixel is rounded to 1/255


def test_the_target_is_never_the_label_and_reaching_it_is_told(data: ImageData) -> None:
    gallery, _ = gallery_of(data, "pgd-5")
    for image in gallery.images:
        assert len({view.target for view in image.views}) == 1
        for view in image.views:
            assert view.target != image.label
            assert view.reached == (view.targeted_predicted == view.target)


def test_an_image_that_only_some_runs_lose_is_preferred(data: ImageData) -> None:
    gallery, evaluations = gallery_of(data, "pgd-5")
    samples = [e.samples for e in evaluations.values() if e.samples is not None]
    seen = np.all([s.correct("clean") for s in samples], axis=0)
    robust = np.stack([s.correct("robust") for s in samples])
    telling = seen & robust.any(0) & ~robust.all(0)
    classes = evaluations["at"].class_names
    for image in gallery.images:
        of_class = telling & (samples[0].label == classes.index(image.label))
        at = list(samples[0].sample_ids).index(image.sample_id)
        assert telling[at] or not of_class.any()


def test_a_suite_is_shown_by_pgd_and_says_so(data: ImageData) -> None:
    gallery, _ = gallery_of(data, "fgsm+cw-5")
    assert gallery.attack.startswith("PGD-20, linf, eps 24/255")
    assert "the evaluation used FGSM + CW-5" in gallery.attack


def test_large_pictures_are_made_smaller_and_odd_channels_gray(data: ImageData) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    images = (torch.rand(4, 2, 200, 100), torch.tensor([0, 1, 0, 1]))
    evaluation = evaluate(model, images, attacks=["fgsm"], check_sanity=False)
    gallery = make_gallery({"m": model}, images, {"m": evaluation})
    assert pixels(gallery.images[0].clean_uri).shape == (96, 48)


def test_other_images_than_the_evaluated_ones_are_refused(data: ImageData) -> None:
    model = classifier(0)
    evaluation = evaluate(model, data, attacks=["fgsm"], check_sanity=False)
    with pytest.raises(ValueError, match="the 60 images that were evaluated, got 10"):
        make_gallery({"m": model}, data.take(torch.arange(10)), {"m": evaluation})
