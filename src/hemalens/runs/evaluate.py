"""Test a saved bundle on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from hemalens.bundle.bundle import Bundle, BundleLike, bundle_folder, open_bundle
from hemalens.config import checked
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.open import check_spec, spec_path
from hemalens.errors import DatasetError, public
from hemalens.evaluation.activation import REFUSED, activation_table, refused_table
from hemalens.evaluation.cells_to_review import cells_to_review
from hemalens.evaluation.evaluate import DatasetPredictions, evaluate_with_predictions
from hemalens.evaluation.occlusion import N_SHOWN as N_OCCLUDED
from hemalens.evaluation.occlusion import occlusion_table
from hemalens.evaluation.results import Evaluation, MethodCard, PictureTable, Report, ReviewCheck, TrustCheck
from hemalens.evaluation.trust_check import trust_check
from hemalens.files import PathLike, as_path, atomic_dir
from hemalens.imaging.segmentation import Outcome
from hemalens.inference.explain import Explainer, explainer_of
from hemalens.outputs import claim_folder
from hemalens.progress import Say
from hemalens.report import report_files, write_report
from hemalens.report.compose import Results, make_report
from hemalens.report.review import sentence
from hemalens.runs.inputs import Inputs, open_inputs, report_inputs

Explain = Literal["activation", "occlusion", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """Which images are tested and shown.

    Classes of fewer than `min_per_class` images are left out. `drop_seen` leaves out images that the bundle was trained on.
    `explain`: "activation" shows the exact maps of some cells, of a bundle that has them; "occlusion" occlusion maps, which
    take seconds each; "none" no map. With `strict` a label that is no cell type is an error.
    """

    min_per_class: Annotated[int, Field(ge=1)] = 1
    drop_seen: bool = False
    explain: Explain = "activation"
    strict: bool = False


DEFAULTS = EvaluateOptions()


@public
def evaluate(
    bundle: BundleLike,
    data: PathLike,
    *,
    out: PathLike,
    options: EvaluateOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Test a bundle on a dataset under the bundle's own label map, and write a report into `out`.

    The report lists unreadable images. Raises `SplitError` for images that the bundle has seen, unless dropped.
    """
    options = checked(options, EvaluateOptions)
    out, data = as_path(out, "out"), check_spec(data, "the test data")
    with claim_folder(out, report_files, "a report", overwrite=overwrite, inputs=[bundle_folder(bundle), spec_path(data)]):
        bundle = open_bundle(bundle)
        given = open_inputs(
            data,
            labels=bundle.manifest.label_map,
            role="test",
            unreadable="keep",
            # an adapted bundle may have classes outside its label map
            keep=bundle.manifest.labels.__contains__,
            stages=bundle.stages,
            strict=options.strict,
        )
        if options.drop_seen:
            given = _unseen(given, bundle)
        report_inputs(say, [given])
        dataset, card = given.dataset, given.card
        refuse_leaks(bundle.seen, dataset)
        say(f"testing {len(dataset)} images, with confidence intervals")
        evaluation, (answered,) = evaluate_with_predictions(
            [bundle],
            [dataset],
            target=dataset,
            source_name=bundle.manifest.trained_on,
            seed=seed,
            min_per_class=options.min_per_class,
        )
        _report_unreadable(evaluation, say)
        trust = trust_check(bundle, answered, seed=seed)
        evaluation = evaluation.model_copy(update={"trust": trust})
        explainer = explainer_of(bundle) if options.explain == "activation" else None
        pictures = _maps(explainer, bundle, dataset, answered, explain=options.explain, say=say)
        review = _review(bundle, answered, given.doubtful, trust, explainer=explainer, say=say)
        report = make_report(
            f"{bundle.manifest.method} tested on {dataset.name}",
            "a saved bundle on images whose labels it has not seen",
            Results(evaluations=[evaluation], pictures=pictures, review=review),
            data=[card],
            methods={bundle.manifest.method: bundle.manifest.config},
            method_cards=[_card_of(bundle)],
            seed=seed,
        )
        with atomic_dir(out, report_files) as folder:
            write_report(report, folder)
        return report


def _report_unreadable(evaluation: Evaluation, say: Say) -> None:
    """A line on the images that could not be read, with the first of them."""
    if evaluation.unreadable:
        name, error = next(iter(evaluation.unreadable.items()))
        say(f"left out {len(evaluation.unreadable)} unreadable image(s), first: {name}: {error}")


def _unseen(given: Inputs, bundle: Bundle) -> Inputs:
    """The images that the bundle was not trained on; raises `DatasetError` where there are none."""
    rest = given.unseen(bundle.seen)
    if not len(rest.dataset):
        raise DatasetError(
            f"no image of {given.dataset.name} is left to test",
            expected="images that the model has not seen",
            got="training images only",
            remedy="Test on other images.",
        )
    return rest


def _review(
    bundle: Bundle,
    answered: DatasetPredictions,
    doubtful: Mapping[str, Outcome],
    trust: TrustCheck,
    *,
    explainer: Explainer | None,
    say: Say,
) -> ReviewCheck | None:
    """The cells to review; None for a bundle of whole images without thresholds."""
    found = cells_to_review(bundle, answered, doubtful=doubtful, verdict=trust.verdict, explainer=explainer)
    if found is not None:
        say(sentence(found))
    return found


def _maps(
    explainer: Explainer | None,
    bundle: Bundle,
    dataset: CellDataset,
    answered: DatasetPredictions,
    *,
    explain: Explain,
    say: Say,
) -> list[PictureTable]:
    """The table of maps that `explain` asks for; one without rows, and the reason, where there is no map."""
    if explain == "none":
        return []
    if explain == "occlusion":
        say(f"occlusion maps of at most {N_OCCLUDED} cells")
        table = occlusion_table(bundle, dataset, answered, n=N_OCCLUDED)
        if not table.rows:
            say(table.reason)
        return [table]
    if explainer is None:
        say(REFUSED)
        return [refused_table(bundle.manifest.method, dataset.name)]
    return [activation_table(explainer, dataset, answered)]


def _card_of(bundle: Bundle) -> MethodCard:
    """The method card of a bundle."""
    manifest = bundle.manifest
    lines = [f"{entry.name} ({entry.role}), {sum(entry.class_counts.values()):,} images" for entry in manifest.data]
    return MethodCard(name=manifest.method, method=manifest.method, learned_from=tuple(lines))
