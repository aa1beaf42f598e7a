"""What a benchmark is asked: methods, protocols, sources and targets, from one YAML file or from flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from hemalens.benchmark.protocols.finetuning import REPEATS, SHOTS, FinetuningPlan
from hemalens.benchmark.protocols.fractions import PUBLISHED_FRACTIONS, FractionPlan
from hemalens.benchmark.protocols.k_shot import PUBLISHED_SHOTS, KShotPlan
from hemalens.benchmark.protocols.labelling import BUDGETS, COMPARED, LabellingPlan
from hemalens.benchmark.protocols.unlabelled import COMPARED as COMPARED_PIECES
from hemalens.benchmark.protocols.unlabelled import NUMBERS, UnlabelledPlan
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.config import StrictConfig
from hemalens.errors import ConfigError, InputError, one_line, require_extra
from hemalens.evaluation.results import Selection
from hemalens.methods import METHODS, Method, find_method

ProtocolName = Literal[
    "k-fold", "cross-domain", "k-shot", "finetuning", "labelling", "unlabelled", "fractions", "efficiency"
]
PARTS: dict[ProtocolName, str] = {
    "k-shot": "k_shot",
    "finetuning": "finetuning",
    "labelling": "labelling",
    "unlabelled": "unlabelled",
    "fractions": "fractions",
    "efficiency": "efficiency",
}
"""The part of the configuration that belongs to a protocol."""
NEED_TARGETS: tuple[ProtocolName, ...] = ("cross-domain", "k-shot", "finetuning", "labelling", "unlabelled")
WITH_TARGETS: tuple[ProtocolName, ...] = (*NEED_TARGETS, "fractions")


def _listed(value: Any) -> Any:
    """One value as a list of one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _split(value: Any) -> Any:
    """Words with commas between them, as on the command line, as a list."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else _listed(value)


def _counted(value: Any) -> Any:
    """Numbers with commas between them, or a single one, as a list."""
    if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
        return tuple(int(part) for part in value.split(","))
    return (value,) if isinstance(value, int) else _listed(value)


Words = Annotated[tuple[str, ...], BeforeValidator(_split), Field(strict=False)]
Counts = Annotated[tuple[int, ...], BeforeValidator(_counted), Field(strict=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(strict=False)]


class Contender(StrictConfig):
    """A method with settings of its own, under the name it is reported by; settings are `key=value`."""

    method: str
    name: str = ""
    settings: Names = ()


class KShotPart(StrictConfig):
    """What the protocol k-shot is asked: drawings, classifier, a pool of labelled images, the targets' label map.

    `beside`: bundles, or the word imagenet, whose embeddings stand beside that of the model.
    """

    shots: tuple[int, ...] = Field(default=PUBLISHED_SHOTS, strict=False)
    repeats: int = Field(default=100, ge=2)
    replacement: bool = True
    few_shot: FewShotConfig = FewShotConfig()
    beside: Names = ()
    support: str | None = None
    target_labels: str | None = None

    def plan(self, seed: int) -> KShotPlan:
        """The plan whose drawings follow `seed`; raises `SplitError` for k that cannot be."""
        return KShotPlan(self.shots, self.repeats, self.replacement, self.few_shot, seed)


class FinetuningPart(StrictConfig):
    """What the protocol finetuning is asked: labelled images a class, drawings, settings of the training as key=value.

    `beside`: bundles, or the word imagenet, whose embeddings stand beside that of the model in its classifier.
    """

    shots: Counts = SHOTS
    repeats: int = Field(default=REPEATS, ge=2)
    training: Words = ()
    beside: Words = ()

    def plan(self, seed: int) -> FinetuningPlan:
        """The plan whose drawings follow `seed`; raises `SplitError` for k that cannot be."""
        return FinetuningPlan(self.shots, self.repeats, self.training, self.beside, seed)


class LabellingPart(StrictConfig):
    """What the protocol labelling is asked: how many cells are labelled in all, and the strategies that choose them."""

    budgets: Counts = BUDGETS
    strategies: Words = COMPARED
    repeats: int = Field(default=10, ge=2)
    test_fraction: float = Field(default=0.4, gt=0, lt=1)
    few_shot: FewShotConfig = FewShotConfig(rule="base")

    def plan(self, seed: int) -> LabellingPlan:
        """The plan whose drawings follow `seed`; raises `ConfigError` or `SplitError` for what cannot be."""
        return LabellingPlan(self.budgets, self.strategies, self.repeats, self.test_fraction, self.few_shot, seed)


class UnlabelledPart(StrictConfig):
    """What the protocol unlabelled is asked: numbers of images without labels, and the pieces that follow them.

    Pieces in use together are joined by a plus: `size+class_bias`. `beside`: bundles, or the word imagenet, that
    help to find neighbours.
    """

    images: Counts = NUMBERS
    pieces: Words = COMPARED_PIECES
    strength: float = Field(default=0.5, gt=0, le=1)
    repeats: int = Field(default=10, ge=2)
    test_fraction: float = Field(default=0.4, gt=0, lt=1)
    beside: Words = ()

    def plan(self, seed: int) -> UnlabelledPlan:
        """The plan whose drawings follow `seed`; raises `ConfigError` or `SplitError` for what cannot be."""
        return UnlabelledPlan(
            self.images, self.pieces, self.strength, self.repeats, self.test_fraction, seed=seed, beside=self.beside
        )


class FractionPart(StrictConfig):
    """What the protocol fractions is asked: `seeds` draws of each share of the training part."""

    fractions: tuple[float, ...] = Field(default=PUBLISHED_FRACTIONS, strict=False)
    seeds: int = Field(default=3, ge=1)
    selection: Selection = "validation"
    strict: bool = False

    def plan(self, seed: int) -> FractionPlan:
        """The plan whose drawings follow `seed`."""
        return FractionPlan(self.fractions, self.seeds, self.selection, self.strict, seed)


class EfficiencyPart(StrictConfig):
    """How the models of a benchmark are timed: rounds in which all take turns, threads (None: all cores)."""

    rounds: int = Field(default=5, ge=1)
    threads: int | None = Field(default=None, ge=1)


class BenchmarkConfig(StrictConfig):
    """Methods x protocols x sources x targets.

    A target that is the source itself is left out: the source's own score comes from its folds. `settings` are `key=value`
    for all methods, `NAME.key=value` for one. `min_per_class` leaves smaller classes out, of each source and target. Of
    `auxiliary`, sets by role, each method gets those it has a use for. `cell_image` names the segmenter that cuts the cells
    out first, or is "centred". `projection`: the plane on which the report draws the embeddings of all laboratories.
    """

    methods: tuple[str | Contender, ...] = Field(strict=False)
    sources: Names
    targets: Names = ()
    protocols: Annotated[tuple[ProtocolName, ...], BeforeValidator(_listed), Field(strict=False)] = ("cross-domain",)
    labels: str = "five_class"
    min_per_class: int = Field(default=1, ge=1)
    auxiliary: dict[str, Names] = Field(default_factory=dict)
    settings: Names = ()
    cell_image: str | None = None
    drop_unreadable: bool = False
    seed: int = Field(default=0, ge=0)
    projection: Literal["PCA", "UMAP"] = "PCA"
    folds: int = Field(default=5, ge=2)
    k_shot: KShotPart = KShotPart()
    finetuning: FinetuningPart = FinetuningPart()
    labelling: LabellingPart = LabellingPart()
    unlabelled: UnlabelledPart = UnlabelledPart()
    fractions: FractionPart = FractionPart()
    efficiency: EfficiencyPart = EfficiencyPart()

    @classmethod
    def read(cls, file: Path) -> Self:
        """From a YAML file; raises `ConfigError` for one that cannot be read, and for unknown keys."""
        return cls.from_mapping(read_yaml(file), source=one_line(file))

    def targets_of(self, source: str) -> tuple[str, ...]:
        """The targets of a source."""
        return tuple(target for target in self.targets if target != source)

    def check(self) -> None:
        """Raise `InputError` for what asks for nothing, or for something that nothing here uses."""
        if not self.methods:
            raise InputError(
                "no method is named", expected=f"one or more of {', '.join(METHODS)}", remedy="Say --methods A,B."
            )
        if not self.sources:
            raise InputError("no source is named", remedy="Say --source SPEC.")
        if self.projection == "UMAP":
            require_extra("umap", "figures", "a UMAP")
        for protocol in self.protocols:
            if protocol in NEED_TARGETS and any(not self.targets_of(source) for source in self.sources):
                raise InputError(f"the protocol {protocol} needs a target", remedy="Name one or more with --target SPEC.")
        if self.targets and not set(self.protocols) & set(WITH_TARGETS):
            raise InputError(
                f"the protocol {self.protocols[0]} takes no target",
                remedy="Leave --target out, or say --protocol cross-domain or k-shot.",
            )
        if set(self.protocols) == {"efficiency"}:
            raise InputError(
                "the protocol efficiency times the models of another protocol, and none is named",
                remedy="Add one, as in --protocol cross-domain; or say --backbone or --bundle instead of --methods.",
            )
        for protocol, part in PARTS.items():
            if protocol not in self.protocols and getattr(self, part) != type(self).model_fields[part].default:
                raise InputError(
                    f"the settings {part} are given without the protocol {protocol}",
                    remedy=f"Leave them out, or add the protocol {protocol}.",
                )

    def trained(self) -> tuple[ProtocolName, ...]:
        """The protocols that train, each once; k-fold is a part of cross-domain."""
        wanted = [protocol for protocol in dict.fromkeys(self.protocols) if protocol != "efficiency"]
        return tuple(p for p in wanted if p != "k-fold" or "cross-domain" not in wanted)

    def entries(self) -> tuple[Entry, ...]:
        """The methods with their settings; raises `ConfigError` for a setting that one does not have."""
        contenders = [Contender(method=each) if isinstance(each, str) else each for each in dict.fromkeys(self.methods)]
        names = [each.name or each.method for each in contenders]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two methods are called {twice[0]!r}", remedy="Give one of them another name.")
        entries = []
        for name, each in zip(names, contenders, strict=True):
            method = find_method(each.method)
            settings = [*_settings_of(name, self.settings, names), *each.settings]
            entries.append(Entry(name, method, method.config.load(None, settings)))
        return tuple(entries)


@dataclass(frozen=True, slots=True)
class Entry:
    """A method of a benchmark with its settings, under the name it is reported by."""

    name: str
    method: Method
    config: StrictConfig


def _settings_of(name: str, settings: Sequence[str], names: Sequence[str]) -> list[str]:
    own = []
    for setting in settings:
        prefix, dot, rest = setting.partition(".")
        if dot and "=" not in prefix and prefix in names:
            if prefix == name:
                own.append(rest)
        else:
            own.append(setting)
    return own


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file as a dict; raises `ConfigError` when it cannot be read or is no mapping."""
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {one_line(file)}", got=error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{one_line(file)} is not valid YAML", got=one_line(str(error))) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{one_line(file)} is no benchmark",
            expected="keys and values, as in `methods: [linear_probe]`",
            got=repr(values),
        )
    return values
