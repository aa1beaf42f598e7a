"""`hemalens adapt`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.cli.options import (
    ADVANCED,
    Bundle,
    DropUnreadable,
    FewShot,
    FollowLinks,
    Json,
    Out,
    Overwrite,
    Quiet,
    Seed,
    Talk,
    bundle_or_default,
)

if TYPE_CHECKING:
    from hemalens.bundle.bundle import Manifest

PIECES = {
    "batch_norm": "batch norm",
    "size": "nucleus size",
    "class_bias": "class bias",
    "neighbours": "nearest-neighbour smoothing",
}


Support = Annotated[
    str | None, typer.Option("--support", metavar="SPEC", help="A few labelled cells, as in folder:my_cells.")
]
Unlabelled = Annotated[
    str | None, typer.Option("--unlabelled", metavar="SPEC", help="Unlabelled images, as in folder:my_images.")
]
Beside = Annotated[
    list[str] | None,
    typer.Option("--beside", metavar="BUNDLE", help="A second encoder: a bundle, or the word imagenet; repeatable."),
]
Finetune = Annotated[
    bool, typer.Option("--finetune", help="Train all weights on the labelled cells (minutes; bundles of robust).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="With --unlabelled: batch_norm, size, class_bias, neighbours, strength, scarce, neighbour_weight, "
        "batch_size. With --finetune: steps, folds, classifier, optimiser.learning_rate.",
        rich_help_panel=ADVANCED,
    ),
]
AllowNew = Annotated[
    bool, typer.Option("--allow-new", help="Learn unknown labels as new classes.", rich_help_panel=ADVANCED)
]


def adapt(
    *,
    bundle: Bundle = None,
    support: Support = None,
    unlabelled: Unlabelled = None,
    out: Out,
    beside: Beside = None,
    finetune: Finetune = False,
    few_shot: FewShot = None,
    settings: Settings = None,
    allow_new: AllowNew = False,
    drop_unreadable: DropUnreadable = False,
    follow_links: FollowLinks = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Adapt a bundle to a new laboratory: ten labelled cells of each type, a few hundred unlabelled images, or both.

    \b
    Examples:
    hemalens adapt runs/robust/bundle --support csv:cells.csv --out runs/adapted
    hemalens adapt --unlabelled folder:images --beside imagenet --out runs/adapted
    """
    from hemalens.adaptation.adapt import adapt as run
    from hemalens.adaptation.options import AdaptOptions

    talk = Talk(quiet, as_json)
    manifest = run(
        bundle_or_default(bundle, talk),
        out=out,
        seed=seed,
        overwrite=overwrite,
        support=support,
        unlabelled=unlabelled,
        options=AdaptOptions(beside or (), few_shot or (), settings or (), allow_new, drop_unreadable, finetune),
        say=talk.say,
    ).manifest
    lines = [
        *(_describe_unlabelled(manifest) if unlabelled else []),
        *(_describe_support(manifest) if support else []),
        f"bundle: {out}",
    ]
    talk.result(manifest.model_dump(mode="json"), lines)


def _describe_unlabelled(manifest: Manifest) -> list[str]:
    from hemalens.adaptation.unlabelled_config import log_class_prior

    how = manifest.unlabelled
    if how is None:
        return []
    pieces = ", ".join(words for name, words in PIECES.items() if how.settings.get(name))
    lines = [f"adapted to {how.n_images} unlabelled images: {pieces}; a test on these images is transductive"]
    if how.typical_nucleus_px is not None:
        lines.append(f"median nucleus diameter: {how.typical_nucleus_px:.0f} px")
    if how.bias is not None:
        scarce = how.settings.get("scarce", 1.0)
        names = [label for label, log in zip(manifest.labels, log_class_prior(manifest.labels, scarce), strict=True) if log]
        if names:
            lines.append(f"class prior of scarce types multiplied by {scarce:g}: {', '.join(names)}")
    if how.neighbours is not None:
        found = f", found with {', '.join(how.beside)}" if how.beside else ""
        lines.append(f"predictions are smoothed over the {how.neighbours} nearest neighbours{found}")
    elif how.settings.get("class_bias"):
        lines.append(
            "optional: --beside imagenet for nearest-neighbour smoothing (slower; finds fewer cells of rare types)"
        )
    return lines


def _describe_support(manifest: Manifest) -> list[str]:
    counts = manifest.data[-1].class_counts
    lines = [f"adapted to {', '.join(f'{label} ({n})' for label, n in counts.items() if n)}"]
    return [*lines, *([manifest.adaptation.expected.verdict] if manifest.adaptation else [])]
