"""Options and printing that several verbs share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from hemalens.errors import MAX_SEED, InputError, one_line, visible
from hemalens.progress import set_quiet

ADVANCED = "Advanced options"
"""The help panel of options with defaults that suit most users."""

Bundle = Annotated[
    Path | None, typer.Argument(metavar="BUNDLE", help="A bundle folder; by default the model that comes with hemalens.")
]
BundleOrImages = Annotated[
    str | None, typer.Argument(metavar="BUNDLE", help="A bundle folder; by default the model that comes with hemalens.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Where the results go.")]
Labels = Annotated[
    str,
    typer.Option(
        metavar="MAP",
        help="five_class (default), eight_class, smear, thirteen_class, fab_eight, blast_or_not, as_labelled.",
        show_default=False,
    ),
]
Runtime = Annotated[
    str,
    typer.Option(metavar="NAME", help="openvino, cuda or auto.", show_default=False, rich_help_panel=ADVANCED),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; repeatable.")]
CellImage = Annotated[
    str | None,
    typer.Option(
        "--cell-image",
        metavar="SEGMENTER",
        help="centred, classical, or a segmenter.",
    ),
]
Auxiliary = Annotated[
    list[str] | None,
    typer.Option(
        "--aux",
        metavar="ROLE=SPEC",
        help="Further data by role; repeatable.",
        rich_help_panel=ADVANCED,
    ),
]
FewShot = Annotated[
    list[str] | None,
    typer.Option(
        "--few-shot",
        metavar="KEY=VALUE",
        help="rule=base (fine-tunes the bundle's head), prototype, nearest_neighbour or logistic_regression; normalise, "
        "centre, n_prototypes, c; repeatable.",
        rich_help_panel=ADVANCED,
    ),
]
MinPerClass = Annotated[int, typer.Option(min=1, metavar="N", help="Fewest images a class.", rich_help_panel=ADVANCED)]
DropUnreadable = Annotated[
    bool,
    typer.Option("--drop-unreadable", help="Leave out unreadable images.", rich_help_panel=ADVANCED),
]
DropSeen = Annotated[
    bool,
    typer.Option("--drop-seen", help="Leave out images that the bundle was trained on.", rich_help_panel=ADVANCED),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at labels of no cell type.", rich_help_panel=ADVANCED)]


def _follow(context: typer.Context, follow: bool) -> bool:
    """Follow links for as long as the command runs."""
    from hemalens.datasets.walking import following_links

    context.with_resource(following_links(follow))
    return follow


FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        callback=_follow,
        help="Follow links out of the folder.",
        rich_help_panel=ADVANCED,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="N", help="Random seed.", rich_help_panel=ADVANCED)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.", rich_help_panel=ADVANCED)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.", rich_help_panel=ADVANCED)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=ADVANCED)]


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


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of an option like 1,0.5,0.01; raises `InputError`."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise InputError(f"cannot read {option}", expected="numbers, as in 1,0.5,0.01", got=repr(text))
    return found


def as_json(value: Any) -> str:
    """Indented JSON; characters that standard output does not have are escaped as JSON does."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(value, indent=2, ensure_ascii=not unicode)


class Talk:
    """Notes of a command on standard error, unless quiet, and its result on standard output."""

    def __init__(self, quiet: bool, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        set_quiet(quiet)

    def say(self, text: str) -> None:
        """Print a note; where standard error takes none, the work goes on without it."""
        if not self.quiet:
            with suppress(OSError):
                print("\n".join(map(visible, text.split("\n"))), file=sys.stderr)

    def result(self, value: Any, lines: Sequence[str]) -> None:
        """Print the result as JSON where requested, otherwise as lines, with control characters escaped."""
        if self.as_json:
            print(as_json(value))
        else:
            print("\n".join(map(visible, lines)))


def bundle_and_images(first: str | None, second: str | None, *, usage: str) -> tuple[Path | None, str]:
    """(bundle, images) of one or two arguments, the last of them the images; raises `InputError` with the `usage`."""
    from hemalens.bundle.default_model import looks_like_bundle

    if first is None:
        raise InputError("no images given", expected=usage)
    if second is None:
        if looks_like_bundle(Path(first)):
            raise InputError(f"{one_line(first)} is a bundle, and no images are given", expected=usage)
        return None, first
    if looks_like_bundle(Path(second)) and not looks_like_bundle(Path(first)):
        raise InputError(f"{one_line(second)} is a bundle, and comes second", expected=usage)
    return Path(first), second


def bundle_or_default(named: Path | None, talk: Talk) -> Path:
    """The named bundle, otherwise the default model, with a note; raises `BundleError` where there is none."""
    if named is not None:
        return named
    from hemalens.bundle.bundle import open_bundle
    from hemalens.bundle.default_model import default_model_path, describe_default_model

    path = default_model_path()
    talk.say(describe_default_model(open_bundle(path).manifest))
    return path
