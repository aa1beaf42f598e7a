"""`hemalens adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemalens.cli.options import Bundle, DropUnreadable, FewShot, Json, Out, Overwrite, Quiet, Seed, Talk, bundle_or_default
from hemalens.errors import InputError

if TYPE_CHECKING:
    from hemalens.bundle.bundle import Manifest

PIECES = {
    "batch_norm": "batch norm",
    "class_balance": "class balance",
    "standardise": "standardised embedding",
    "pseudo_labels": "pseudo-labels",
    "prior": "class prior",
    "size": "size of the nucleus",
    "class_bias": "class bias",
    "neighbours": "neighbours",
}


def adapt(
    *,
    bundle: Bundle = None,
    support: Annotated[
        str | None, typer.Option("--support", metavar="SPEC", help="A few labelled cells, as in folder:my_cells.")
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option("--unlabelled", metavar="SPEC", help="Images without labels, as in folder:my_images; alone or first."),
    ] = None,
    out: Out,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            metavar="BUNDLE",
            help="A further bundle whose embedding stands beside, or the word imagenet, for the network as it is before "
            "any training on cells; with images without labels it finds neighbours; repeatable.",
        ),
    ] = None,
    few_shot: FewShot = None,
    finetune: Annotated[
        bool,
        typer.Option("--finetune", help="Train the whole network on with the labelled cells: minutes, robust only."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="What follows the unlabelled images: batch_norm, size, class_bias (all three by default), class_balance, "
            "standardise, pseudo_labels, prior, neighbours; strength, scarce, neighbour_weight, batch_size. With "
            "--finetune: steps, folds, batch_size, classifier, optimiser.learning_rate; repeatable.",
        ),
    ] = None,
    allow_new: Annotated[
        bool, typer.Option("--allow-new", help="Learn labels that the bundle does not know as new classes.")
    ] = False,
    drop_unreadable: DropUnreadable = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Adapt a bundle to a new laboratory with a few labelled cells, with images without labels, or with both.

    Of labelled cells, ten of each type are a good start; of images without labels, a few hundred.
    """
    of_support = ("--few-shot", few_shot), ("--allow-new", allow_new), ("--finetune", finetune)
    _refuse_idle(support, unlabelled, [option for option, value in of_support if value], settings)
    talk = Talk(quiet, as_json)
    base = bundle_or_default(bundle, talk)
    few = {"beside": beside or [], "few_shot": few_shot or [], "allow_new": allow_new, "drop_unreadable": drop_unreadable}
    asked = {"out": out, "settings": settings or [], "seed": seed, "overwrite": overwrite, "say": talk.say}
    manifest = _made(base, (support, unlabelled), asked, few, finetune=finetune)
    lines = [*(_said_of_images(manifest) if unlabelled else []), *(_said_of_support(manifest) if support else [])]
    talk.result(manifest.model_dump(mode="json"), [*lines, f"bundle: {out}"])


def _made(
    base: Path, images: tuple[str | None, str | None], asked: dict[str, Any], few: dict[str, Any], *, finetune: bool
) -> Manifest:
    """What the adapted bundle says of itself; `images` are the support and the images without labels, one of them or both.

    `asked` goes with every way but a classifier that nothing random made; `few` with labelled cells.
    """
    support, unlabelled = images
    if finetune:
        from hemalens.adaptation.finetune import adapt_finetuned

        own = {name: few[name] for name in ("beside", "drop_unreadable")}
        return adapt_finetuned(base, str(support), **own, **asked).manifest
    if unlabelled is None:
        from hemalens.adaptation.few_labels import adapt as run

        return run(base, str(support), **{name: asked[name] for name in ("out", "overwrite", "say")}, **few).manifest
    from hemalens.adaptation.adapt_unlabelled import adapt_to_both, adapt_unlabelled

    if support is None:
        return adapt_unlabelled(base, unlabelled, beside=few["beside"], **asked).manifest
    return adapt_to_both(base, unlabelled, support, **asked, **few).manifest


def _refuse_idle(support: str | None, unlabelled: str | None, said: list[str], settings: list[str] | None) -> None:
    """Raise `InputError` where there is nothing to adapt to, or an option goes with what is not there.

    `said` are the options that go with labelled cells.
    """
    if support is None and unlabelled is None:
        raise InputError("there is nothing to adapt to", expected="--support SPEC, --unlabelled SPEC or both")
    if support is None and said:
        raise InputError(f"{said[0]} goes with --support only")
    trains = "--finetune" in said
    others = [
        *(["--unlabelled"] if unlabelled is not None else []),
        *(o for o in said if o in ("--few-shot", "--allow-new")),
    ]
    if trains and others:
        raise InputError(
            f"--finetune and {others[0]} do not go together",
            remedy="Adapt to unlabelled images first, then --finetune that bundle." if unlabelled else None,
        )
    if unlabelled is None and settings and not trains:
        raise InputError(
            "--set goes with --unlabelled or --finetune only", remedy="For labelled cells, say --few-shot KEY=VALUE."
        )


def _said_of_images(manifest: Manifest) -> list[str]:
    how = manifest.unlabelled
    if how is None:
        return []
    pieces = ", ".join(words for name, words in PIECES.items() if how.settings.get(name))
    lines = [f"adapted to {how.n_images} images without labels: {pieces}; a test on these images is transductive"]
    if how.taught is not None:
        lines.append(f"taught by its own answers: {', '.join(f'{label} ({n})' for label, n in how.taught.items())}")
    if how.typical_nucleus_px is not None:
        lines.append(f"typical nucleus: {how.typical_nucleus_px:.0f} px in diameter")
    if how.bias is not None:
        lines += _said_of_scarce(manifest.labels, how.settings.get("scarce", 1.0))
    if how.neighbours is not None:
        found = f", found with {', '.join(how.beside)} beside" if how.beside else ""
        lines.append(f"neighbours: each answer leans on the {how.neighbours} nearest of the images{found}")
    elif how.settings.get("class_bias"):
        lines.append("with --beside imagenet answers lean on those of the nearest images too: slower, mostly better")
    if how.prior is not None:
        shares = zip(manifest.labels, how.prior, strict=True)
        lines.append(f"estimated shares: {', '.join(f'{label} {share:.2f}' for label, share in shares)}")
    return lines


def _said_of_scarce(labels: Sequence[str], share: float) -> list[str]:
    from hemalens.adaptation.unlabelled_config import log_usual_shares

    scarce = [label for label, log in zip(labels, log_usual_shares(labels, share), strict=True) if log]
    return [f"scarce in any blood, so taken to be {share:g} times as frequent: {', '.join(scarce)}"] if scarce else []


def _said_of_support(manifest: Manifest) -> list[str]:
    counts = manifest.data[-1].class_counts
    lines = [f"adapted to {', '.join(f'{label} ({n})' for label, n in counts.items() if n)}"]
    return [*lines, *([manifest.adaptation.expected.verdict] if manifest.adaptation else [])]
