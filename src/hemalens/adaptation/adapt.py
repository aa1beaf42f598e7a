"""Adapt a bundle to a new laboratory: with a few labelled cells, with unlabelled images, or with both."""

from __future__ import annotations

from pathlib import Path

from hemalens.adaptation.adapt_unlabelled import adapt_unlabelled
from hemalens.adaptation.encoders import folders_of
from hemalens.adaptation.few_labels import adapt_few_labels, few_shot_config
from hemalens.adaptation.finetune import adapt_finetuned
from hemalens.adaptation.options import DEFAULTS, AdaptOptions
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.bundle.bundle import Bundle, BundleLike, bundle_folder
from hemalens.bundle.folders import artifact_files
from hemalens.config import checked
from hemalens.datasets.open import check_spec, spec_path
from hemalens.errors import InputError, public
from hemalens.files import PathLike, as_path, scratch_folder
from hemalens.outputs import claim_folder
from hemalens.progress import Say
from hemalens.runs.folders import RunOptions


@public
def adapt(
    bundle: BundleLike,
    *,
    out: PathLike,
    support: PathLike | None = None,
    unlabelled: PathLike | None = None,
    options: AdaptOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Adapt a bundle, or that in a folder, to a new laboratory, and write the adapted bundle to `out`.

    `support` names labelled cells, as in "folder:my_cells"; they fit a new classifier, or all weights with
    `options.finetune`. `unlabelled` names a dataset or a folder of images. With both, the bundle is adapted to the images
    first. Raises `InputError` for options that the given data have no use for.
    """
    options = checked(options, AdaptOptions)
    out, bundle = as_path(out, "out"), bundle_folder(bundle)
    support = None if support is None else check_spec(support, "the support")
    unlabelled = None if unlabelled is None else check_spec(unlabelled, "the source of unlabelled images")
    _check(support, unlabelled, options)
    inputs = [bundle, *folders_of(options.beside), *(spec_path(given) for given in (support, unlabelled) if given)]
    with claim_folder(out, artifact_files, "a bundle", overwrite=overwrite, inputs=inputs):
        return _adapt(bundle, support, unlabelled, run=RunOptions(out, seed), options=options, say=say)


def _adapt(
    bundle: Path, support: str | None, unlabelled: str | None, *, run: RunOptions, options: AdaptOptions, say: Say
) -> Bundle:
    if support is None:
        return adapt_unlabelled(bundle, str(unlabelled), run=run, options=options, say=say)
    if options.finetune:
        return adapt_finetuned(bundle, support, run=run, options=options, say=say)
    if unlabelled is None:
        return adapt_few_labels(bundle, support, run=run, options=options, say=say)
    UnlabelledConfig.load(None, options.settings)
    few_shot_config(options)
    with scratch_folder() as folder:
        between = folder / "bundle"
        adapt_unlabelled(bundle, unlabelled, run=RunOptions(between, run.seed), options=options, say=say)
        return adapt_few_labels(between, support, run=run, options=options, say=say)


def _check(support: str | None, unlabelled: str | None, options: AdaptOptions) -> None:
    """Raise `InputError` if there is nothing to adapt to, or an option has no use."""
    if support is None and unlabelled is None:
        raise InputError("there is nothing to adapt to", expected="--support SPEC, --unlabelled SPEC or both")
    if support is None and options.beside:
        raise InputError("--beside needs --support", remedy="Leave it out: unlabelled images need no further encoder.")
    of_classifier = {"--few-shot": options.few_shot, "--allow-new": options.allow_new}
    given = [name for name, value in of_classifier.items() if value]
    if support is None and (given or options.finetune):
        raise InputError(f"{(given or ['--finetune'])[0]} needs --support")
    if options.finetune and (unlabelled is not None or given):
        other = "--unlabelled" if unlabelled is not None else given[0]
        raise InputError(
            f"--finetune and {other} do not go together",
            remedy="Adapt to the unlabelled images first, then --finetune that bundle." if unlabelled else None,
        )
    if options.settings and unlabelled is None and not options.finetune:
        raise InputError("--set needs --unlabelled or --finetune", remedy="For labelled cells, use --few-shot KEY=VALUE.")
