"""Options and printing that several verbs share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hemalens.errors import InputError, one_line
from hemalens.progress import set_quiet

ADVANCED = "Advanced"
"""The help panel of options that most users leave alone."""

Bundle = Annotated[Path | None, typer.Argument(help="A bundle folder; without one, the model that comes with hemalens.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")]
Labels = Annotated[
    str, typer.Option(help="Label map: five_class, eight_class, thirteen_class, fab_eight, blast_or_not, as_labelled.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.", rich_help_panel=ADVANCED)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.", rich_help_panel=ADVANCED)]
DropUnreadable = Annotated[
    bool, typer.Option("--drop-unreadable", help="Leave out unreadable images.", rich_help_panel=ADVANCED)
]
MinPerClass = Annotated[int, typer.Option(min=1, help="Leave out classes of fewer images, and name them.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable.")]
FewShot = Annotated[
    list[str] | None,
    typer.Option(
        "--few-shot",
        metavar="KEY=VALUE",
        help="Few-shot classifier: rule=base (fine-tunes the bundle's head), prototype, nearest_neighbour or "
        "logistic_regression; normalise, centre, n_prototypes, c; repeatable.",
        rich_help_panel=ADVANCED,
    ),
]
DropSeen = Annotated[bool, typer.Option("--drop-seen", help="Leave out images that a bundle was trained on.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.", rich_help_panel=ADVANCED)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=ADVANCED)]


CellImage = Annotated[
    str | None,
    typer.Option(
        "--cell-image",
        metavar="SEGMENTER",
        help="Cut the white cell out first: classical, or the folder of a trained segmenter, puts it alone on gray; "
        "centred shows it in its surroundings at a scale set by its nucleus.",
    ),
]


def role_specs(given: Sequence[str], option: str) -> list[tuple[str, str]]:
    """(role, dataset name) of each ROLE=SPEC; raises `InputError`."""
    pairs = []
    for text in given:
        role, separator, spec = text.partition("=")
        if not separator or not role or not spec:
            raise InputError(f"cannot read {option} {text!r}", expected="ROLE=SPEC, as in generic=matek19:my_data")
        pairs.append((role, spec))
    return pairs


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of an option like 1,2,5; raises `InputError`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"cannot read {option}", expected="whole numbers, as in 1,2,5", got=repr(text)) from error


Auxiliary = Annotated[
    list[str] | None,
    typer.Option("--aux", metavar="ROLE=SPEC", help="Further data a method has a use for, as in pretraining=cam16:DIR."),
]


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of an option like 1,0.5,0.01; raises `InputError`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"cannot read {option}", expected="numbers, as in 1,0.5,0.01", got=repr(text)) from error


class Talk:
    """What a command says on the way, on standard error: nothing when quiet."""

    def __init__(self, quiet: bool, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        set_quiet(quiet)

    def say(self, text: str) -> None:
        """A note on the way."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def result(self, value: Any, lines: Sequence[str]) -> None:
        """The result on standard output: as JSON when asked for, otherwise as lines."""
        print(json.dumps(value, indent=2, ensure_ascii=False) if self.as_json else "\n".join(lines))


def bundle_and_images(first: str | None, second: str | None, *, shape: str) -> tuple[Path | None, str]:
    """(bundle, images) of one or two words, one of them being the images; raises `InputError`, with the call's `shape`."""
    from hemalens.bundle.default_model import looks_like_bundle

    if first is None:
        raise InputError("no images are named", expected=shape)
    if second is None:
        if looks_like_bundle(Path(first)):
            raise InputError(f"{one_line(first)} is a bundle, and no images are named", expected=shape)
        return None, first
    if looks_like_bundle(Path(second)) and not looks_like_bundle(Path(first)):
        raise InputError(f"{one_line(second)} is a bundle and stands second", expected=shape)
    return Path(first), second


def bundle_or_default(named: Path | None, talk: Talk) -> Path:
    """The bundle that was named, otherwise the default model, which is said; raises `BundleError` where there is none."""
    if named is not None:
        return named
    from hemalens.bundle.bundle import open_bundle
    from hemalens.bundle.default_model import default_model_path, describe_default_model

    path = default_model_path()
    talk.say(describe_default_model(open_bundle(path).manifest))
    return path
