"""Settings of a benchmark: methods, protocols, sources and targets, from one YAML file or from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from hemalens.benchmark.efficiency.config import EfficiencyConfig
from hemalens.benchmark.protocols import PROTOCOLS, ProtocolConfig
from hemalens.benchmark.protocols.base import Names
from hemalens.benchmark.protocols.finetuning import FinetuningProtocol
from hemalens.benchmark.protocols.folds import KFoldProtocol
from hemalens.benchmark.protocols.fractions import FractionsProtocol
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.benchmark.protocols.labelling import LabellingProtocol
from hemalens.benchmark.protocols.laboratory import LaboratoryProtocol
from hemalens.benchmark.protocols.left_out import LeaveOneOutProtocol
from hemalens.benchmark.protocols.unlabelled import UnlabelledProtocol
from hemalens.config import Seed, StrictConfig, parse_yaml, read_settings
from hemalens.datasets.open import spec_path
from hemalens.errors import ConfigError, InputError, near_matches, one_line, require_extra
from hemalens.methods import METHODS, Method, find_method

EFFICIENCY = "efficiency"
"""The protocol that trains nothing: it measures the models of the others."""


class Contender(StrictConfig):
    """A method with settings of its own, `key=value`, under the name that the report gives it."""

    method: str
    name: str = ""
    settings: Names = ()


class BenchmarkConfig(StrictConfig):
    """Methods x protocols x sources x targets.

    A target that is the source itself is left out: the source's own score comes from its folds. `settings` are `key=value`
    for all methods, `NAME.key=value` for one. `min_per_class` leaves out smaller classes of each source and target. Of
    `auxiliary`, sets by role, each method gets those it uses. `cell_image` names the segmenter that cuts the cells out, or
    is "centred". `projection` draws the embeddings of all laboratories in one plane. `folds` are those of k-fold and
    cross-domain; the settings of every other protocol are a field of its name.
    """

    methods: tuple[str | Contender, ...] = Field(strict=False)
    sources: Names
    targets: Names = ()
    protocols: Names = ("cross-domain",)
    labels: str = "five_class"
    min_per_class: int = Field(default=1, ge=1)
    auxiliary: dict[str, Names] = Field(default_factory=dict)
    settings: Names = ()
    cell_image: str | None = None
    drop_unreadable: bool = False
    seed: Seed = 0
    projection: Literal["PCA", "UMAP"] = "PCA"
    folds: int = Field(default=KFoldProtocol().folds, ge=2)
    k_shot: KShotProtocol = KShotProtocol()
    finetuning: FinetuningProtocol = FinetuningProtocol()
    labelling: LabellingProtocol = LabellingProtocol()
    unlabelled: UnlabelledProtocol = UnlabelledProtocol()
    fractions: FractionsProtocol = FractionsProtocol()
    leave_one_laboratory_out: LeaveOneOutProtocol = LeaveOneOutProtocol()
    efficiency: EfficiencyConfig = EfficiencyConfig()

    @field_validator("protocols")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            check_protocol(name)
        return names

    @classmethod
    def read(cls, file: Path) -> Self:
        """From a YAML file; raises `ConfigError` for one that cannot be read, and for unknown keys."""
        return cls.from_mapping(read_yaml(file), source=one_line(file))

    def paths(self) -> list[Path]:
        """Everything that a run reads."""
        sets = [*self.sources, *self.targets, *(spec for specs in self.auxiliary.values() for spec in specs)]
        paths = [spec_path(spec) for spec in (*sets, self.k_shot.support, self.cell_image) if spec]
        own = [
            protocol
            for protocol in map(self.protocol, self.trained_protocols())
            if isinstance(protocol, LaboratoryProtocol)
        ]
        return [*paths, *(folder for protocol in own for folder in protocol.beside_folders)]

    def targets_of(self, source: str) -> tuple[str, ...]:
        """The targets of a source."""
        return tuple(target for target in self.targets if target != source)

    def protocol(self, name: str) -> ProtocolConfig:
        """A protocol with its settings."""
        kind = PROTOCOLS[name]
        if issubclass(kind, KFoldProtocol):
            return kind(folds=self.folds)
        settings: ProtocolConfig = getattr(self, settings_key(name), None) or kind()
        return settings

    def trained_protocols(self) -> tuple[str, ...]:
        """The protocols that train, each once; k-fold is a part of cross-domain."""
        named = [name for name in dict.fromkeys(self.protocols) if name != EFFICIENCY]
        return tuple(name for name in named if name != "k-fold" or "cross-domain" not in named)

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

    def check(self) -> None:
        """Raise `InputError` for a benchmark without work, or with settings that nothing uses."""
        if not self.methods:
            raise InputError(
                "no method is named", expected=f"one or more of {', '.join(METHODS)}", remedy="Use --methods A,B."
            )
        if not self.sources:
            raise InputError("no source is named", remedy="Use --source SPEC.")
        if self.projection == "UMAP":
            require_extra("umap", "figures", "a UMAP")
        trained = self.trained_protocols()
        if not trained:
            raise InputError(
                "the protocol efficiency times the models of another protocol, and none is named",
                remedy="Add one, as in --protocol cross-domain; or use --backbone or --bundle instead of --methods.",
            )
        for name in trained:
            if PROTOCOLS[name].needs_target and not all(self.targets_of(source) for source in self.sources):
                raise InputError(f"the protocol {name} needs a target", remedy="Name one or more with --target SPEC.")
        if self.targets and not any(PROTOCOLS[name].takes_target for name in trained):
            raise InputError(
                f"the protocol {self.protocols[0]} takes no target",
                remedy="Leave --target out, or use --protocol cross-domain or k-shot.",
            )
        for name in (*PROTOCOLS, EFFICIENCY):
            key = settings_key(name)
            field = type(self).model_fields.get(key)
            if field is not None and name not in self.protocols and getattr(self, key) != field.default:
                raise InputError(
                    f"the settings {key} are given without the protocol {name}",
                    remedy=f"Leave them out, or add the protocol {name}.",
                )


@dataclass(frozen=True, slots=True)
class Entry:
    """A method of a benchmark with its settings, under the name that the report gives it."""

    name: str
    method: Method
    config: StrictConfig


def settings_key(protocol: str) -> str:
    """The key of a protocol's settings in a benchmark's configuration."""
    return protocol.replace("-", "_")


def check_protocol(name: str) -> None:
    """Raise `ConfigError` with near matches for an unknown protocol."""
    known = (*PROTOCOLS, EFFICIENCY)
    if name not in known:
        raise ConfigError(
            f"unknown protocol {name!r}", remedy=near_matches(name, known, listed="hemalens benchmark --help")
        )


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
    values = read_settings(file, "YAML", parse_yaml)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"{one_line(file)} is no benchmark",
            expected="keys and values, as in `methods: [linear_probe]`",
            got=f"{type(values).__name__}" if not isinstance(values, dict) else "a key that is no text",
        )
    return values
