"""The options of `hemalens benchmark` as tables: the configuration key, the protocol and the help panel of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
import typer.core

from hemalens.cli.help import Verb
from hemalens.cli.options import ADVANCED, numbers, role_specs, whole_numbers

MAIN = ("--config", "--methods", "--source", "--target", "--protocol", "--out")
"""The options that most benchmarks need; the help shows them first."""
BUNDLE_PROTOCOLS = ("k-shot", "finetuning", "labelling", "unlabelled")
"""Protocols that run on a saved bundle."""
LEFT_OUT_PROTOCOL = "leave-one-laboratory-out"
"""The protocol of detectors, and one of those of single cells."""
DETECTOR_OPTIONS = (
    *("--methods", "--protocol", "--source", "--set", "--seed"),
    *("--follow-links", "--out", "--overwrite", "--quiet", "--json"),
)
"""Options of a benchmark of detectors."""
UNTRAINED_OPTIONS = ("--backbone", "--bundle", "--drop-seen", "--classes")
"""Options of benchmarks that train nothing."""

DEFAULTS = {
    "--folds": "5",
    "--projection": "PCA",
    "--shots": "1,2,3,5,10,15,20,30,50",
    "--repeats": "100",
    "--fractions": "1,0.5,0.1,0.01",
    "--seeds": "3",
    "--selection": "validation",
    "--rounds": "5",
    "--threads": "all cores",
    "--classes": "8",
}
"""Defaults in the help; a test holds them to those of the configuration, which is not loaded for the help."""


def _unchanged(value: Any) -> Any:
    return value


def _sets_by_role(given: Sequence[str]) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for role, spec in role_specs(given, "--aux"):
        roles.setdefault(role, []).append(spec)
    return roles


def _few_shot(given: Sequence[str]) -> dict[str, Any]:
    from hemalens.classifiers.few_shot import FewShotConfig

    return FewShotConfig.load(None, given).model_dump()


def _settings(protocol: str) -> Callable[[Sequence[str]], dict[str, Any]]:
    """Read KEY=VALUE settings of a protocol."""

    def read(given: Sequence[str]) -> dict[str, Any]:
        from hemalens.benchmark.protocols import PROTOCOLS

        return PROTOCOLS[protocol].load(None, given).model_dump()

    return read


CONFIG_OPTIONS: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "--methods": (("methods",), lambda text: [name.strip() for name in text.split(",") if name.strip()]),
    "--source": (("sources",), list),
    "--target": (("targets",), list),
    "--protocol": (("protocols",), list),
    "--labels": (("labels",), _unchanged),
    "--min-per-class": (("min_per_class",), _unchanged),
    "--aux": (("auxiliary",), _sets_by_role),
    "--cell-image": (("cell_image",), _unchanged),
    "--drop-unreadable": (("drop_unreadable",), _unchanged),
    "--seed": (("seed",), _unchanged),
    "--folds": (("folds",), _unchanged),
    "--projection": (("projection",), _unchanged),
    "--shots": (("k_shot", "shots"), lambda text: whole_numbers(text, "--shots")),
    "--repeats": (("k_shot", "repeats"), _unchanged),
    "--without-replacement": (("k_shot", "replacement"), lambda without: not without),
    "--support": (("k_shot", "support"), _unchanged),
    "--target-labels": (("k_shot", "target_labels"), _unchanged),
    "--few-shot": (("k_shot", "few_shot"), _few_shot),
    "--beside": (("k_shot", "beside"), list),
    "--finetuning": (("finetuning",), _settings("finetuning")),
    "--labelling": (("labelling",), _settings("labelling")),
    "--unlabelled": (("unlabelled",), _settings("unlabelled")),
    "--leave-one-laboratory-out": (("leave_one_laboratory_out",), _settings("leave-one-laboratory-out")),
    "--fractions": (("fractions", "fractions"), lambda text: numbers(text, "--fractions")),
    "--seeds": (("fractions", "seeds"), _unchanged),
    "--selection": (("fractions", "selection"), _unchanged),
    "--strict": (("fractions", "strict"), _unchanged),
    "--rounds": (("efficiency", "rounds"), _unchanged),
    "--threads": (("efficiency", "threads"), _unchanged),
}
"""The key of the configuration that an option sets, and how its value is read."""

EFFICIENCY_OPTIONS: dict[str, str] = {
    "--backbone": "backbones",
    "--bundle": "bundles",
    "--classes": "classes",
    "--rounds": "rounds",
    "--threads": "threads",
    "--min-per-class": "min_per_class",
    "--drop-seen": "drop_seen",
    "--seed": "seed",
    **dict.fromkeys(("--target", "--protocol", "--out", "--overwrite", "--quiet", "--json"), ""),
}
"""Options of the protocol efficiency without methods, and the key of `NetworksConfig` that each sets."""

_PARTS = {
    "k_shot": "k-shot",
    "leave_one_laboratory_out": LEFT_OUT_PROTOCOL,
    **{name: name for name in ("finetuning", "labelling", "unlabelled", "fractions", "efficiency")},
}


def protocols_using(option: str) -> tuple[str, ...]:
    """The protocols that use an option; none for one that every benchmark takes."""
    if option == "--folds":
        return ("k-fold", "cross-domain")
    if option == "--bundle":
        return ("efficiency", *BUNDLE_PROTOCOLS)
    if option in UNTRAINED_OPTIONS:
        return ("efficiency",)
    path, _ = CONFIG_OPTIONS.get(option, (("",), None))
    return (_PARTS[path[0]],) if path[0] in _PARTS else ()


BUNDLE_OPTIONS: tuple[str, ...] = (
    *(
        o
        for o in CONFIG_OPTIONS
        if set(protocols_using(o)) & set(BUNDLE_PROTOCOLS) and o not in ("--support", "--target-labels")
    ),
    *(
        "--bundle",
        "--protocol",
        "--target",
        "--min-per-class",
        "--follow-links",
        "--seed",
        "--out",
        "--overwrite",
        "--quiet",
        "--json",
    ),
)
"""Options of a benchmark of a saved bundle."""


def long_name(parameter: Any) -> str:
    """The long name of an option, such as --out."""
    names: list[str] = parameter.opts
    return max(names, key=len)


def given_options(context: typer.Context) -> dict[str, Any]:
    """The values of the options on the command line, by their long names, in the order of the help."""
    # typer's own click has no public names
    return {
        long_name(parameter): context.params[parameter.name]
        for parameter in context.command.params
        if parameter.name in context.params
        and getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
    }


class BenchmarkCommand(Verb):
    """Groups the options of the help: the main ones, one panel a protocol, and the advanced ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            name = long_name(parameter)
            if isinstance(parameter, typer.core.TyperOption) and name not in (*MAIN, "--help"):
                users = protocols_using(name)
                panel = "efficiency" if "efficiency" in users else " and ".join(users)
                parameter.rich_help_panel = panel or ADVANCED
