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

PIECES = {"size": "nucleus size", "neighbours": "nearest-neighbour smoothing", "class_means": "class means"}


Support = Annotated[
    str | None, typer.Option("--support", metavar="SPEC", help="A few labelled cells, as in folder:my_cells.")
]
Unlabelled = Annotated[
    str | None, typer.Option("--unlabelled", metavar="SPEC", help="Unlabelled images, as in folder:my_images.")
]
Beside = Annotated[
    list[str] | None,
    typer.Option("--beside", metavar="BUNDLE", help="With --support, a second encoder: a bundle, or imagenet; repeatable."),
]
Finetune = Annotated[
    bool, typer.Option("--finetune", help="Train all weights on the labelled cells (minutes; bundles of robust).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="With --unlabelled: size, neighbours, class_means. "
        "With --finetune: steps, folds, classifier, optimiser.learning_rate.",
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
    hemalens adapt --unlabelled folder:images --out runs/adapted
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
    how = manifest.unlabelled
    if how is None:
        return []
    pieces = ", ".join(PIECES[name] for name in how.pieces) or "no piece is used, the bundle predicts as before"
    lines = [f"adapted to {how.n_images} unlabelled images: {pieces}"]
    lines += [f"{PIECES[name]} is left out: {reason}" for name, reason in how.left_out.items()]
    if how.typical_nucleus_px is not None:
        lines.append(f"typical nucleus diameter: {how.typical_nucleus_px:.0f} px")
    if how.neighbours is not None:
        lines.append(f"predictions are smoothed over the {how.neighbours} nearest neighbours")
    if how.pieces:
        lines.append(f"the predicted type changes for {how.changed:.0%} of them; a test on these images is transductive")
    return lines


def _describe_support(manifest: Manifest) -> list[str]:
    counts = manifest.data[-1].class_counts
    lines = [f"adapted to {', '.join(f'{label} ({n})' for label, n in counts.items() if n)}"]
    return [*lines, *([manifest.adaptation.expected.verdict] if manifest.adaptation else [])]
