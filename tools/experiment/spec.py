"""An experiment as its YAML file says it, and the trials that it stands for. Pure but for reading.

An experiment crosses workloads, alphas, client counts, dropouts, seeds and methods; each
combination is a trial, which has everything that is needed to run it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from codec.errors import UnknownCodec
from codec.limits import MIN_SEGMENT_BYTES
from codec.registry import codec_named
from tools.bench.methods import BadMethod
from tools.experiment.methods import Method, check_method, parse_method
from tools.settings import SettingsError, load
from transport.control import TrainingPlan

# What a method says and a plan therefore must not.
_OF_METHODS: Final = ("mask", "mask_interval", "token_ratio")
_DATA_VARIABLE: Final = "FEDFSTQ_DATA"
CPU: Final = "cpu"
_FLOAT32: Final = "float32"

Name = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class ExperimentError(Exception):
    """An experiment cannot be run as it was asked for; the line says why and what to do."""


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Slowdown(_Checked):
    """Compute heterogeneity: this share of the clients is so many times slower.

    Only the time model asks for it; what was measured stays as it was measured.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    factor: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (1.0, 1.0)


class MoreSeeds(_Checked):
    """Seeds that only some methods are run with besides, to tell more of what stands close.

    Attributes:
        seeds: None of the experiment's own.
        methods: Some of the experiment's; the baseline is always with them.
    """

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    methods: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("methods")
    @classmethod
    def _known(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return methods in their shortest texts."""
        return tuple(str(_method(text)) for text in values)

    @field_validator("seeds", "methods")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        return _once(values, info)


class ExperimentSpec(_Checked):
    """One YAML file.

    Attributes:
        name: Of the experiment, and of its folder.
        model: Base model: a folder or a hub name.
        device: Where models train and are evaluated. On a GPU the seconds of training are those of
            the processor that waits for it.
        dtype: Of the base model; the adapter is float32.
        workloads: By the names that `tools.experiment.workloads` knows.
        data: Folder of the data sets.
        alphas: Of the Dirichlet law that divides classes over clients; infinity divides evenly.
        clients: In the fleet.
        cohort: Clients that a round asks.
        rank: LoRA's r.
        lora_alpha: LoRA's alpha.
        target_modules: Modules that are adapted.
        local: The clients' training.
        slowdown: Of the time model.
        dropout: Chances that an update never arrives.
        rounds: Adapter versions to make.
        seeds: Of partition, initial adapter, cohorts, batches, codecs and dropout.
        segment_bytes: Most bytes that one segment has.
        heldout_rows: Rows that every version is evaluated on, of all classes alike.
        evaluate_every: Rounds from one evaluation to the next; the last round always has one.
        target_share: The target is the loss that the baseline reaches after this share of rounds.
        baseline: A method; it is run whether or not `methods` has it.
        methods: What is compared.
        more_seeds: What only some of them are run with besides.
        quality: Whether the last adapter also generates answers, which are scored.
    """

    name: Name
    model: Annotated[str, Field(min_length=1)] = "tools/base"
    device: Literal["cpu", "cuda"] = CPU
    dtype: Literal["float32", "bfloat16"] = _FLOAT32
    workloads: Annotated[tuple[Name, ...], Field(min_length=1)]
    data: Path | None = None
    alphas: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.1,)
    clients: Annotated[tuple[Count, ...], Field(min_length=1)] = (30,)
    cohort: Count = 6
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    local: TrainingPlan = TrainingPlan(
        local_steps=4, batch_size=4, max_tokens=64, learning_rate=1e-3
    )
    slowdown: Slowdown = Slowdown()
    dropout: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.0,)
    rounds: Count = 40
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    segment_bytes: Annotated[int, Field(ge=MIN_SEGMENT_BYTES, le=1 << 24)] = 32_768
    heldout_rows: Count = 64
    evaluate_every: Count = 1
    target_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    baseline: str = "fp32"
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    more_seeds: MoreSeeds | None = None
    quality: bool = False

    @field_validator("baseline", "methods")
    @classmethod
    def _known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Return methods in their shortest texts."""
        if isinstance(value, str):
            return str(_method(value))
        return tuple(str(_method(text)) for text in value)

    @field_validator("workloads", "alphas", "clients", "dropout", "seeds", "methods")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        return _once(values, info)

    @field_validator("local", mode="before")
    @classmethod
    def _plan(cls, value: object) -> object:
        """Return the plan of these keys, and the small one's where a key is not given.

        The plan is also a message, and messages ignore what they do not know; a file must not.
        """
        if not isinstance(value, Mapping):
            return value
        default = asdict(cls.model_fields["local"].default)
        for key in value:
            if key in _OF_METHODS:
                example = "fp32,mask=hard,ratio=0.5,interval=10"
                raise ValueError(f"{key} belongs to a method, as {example}")
            if key not in default:
                raise ValueError(f"unknown key {key!r}; known are {', '.join(default)}")
        try:
            return TrainingPlan(**{**default, **value})
        except ValidationError as error:
            wrong = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
            raise ValueError(wrong) from error

    @model_validator(mode="after")
    def _cohort_of_clients(self) -> ExperimentSpec:
        if self.cohort > min(self.clients):
            raise ValueError(f"cohort: {self.cohort} is more than {min(self.clients)} clients")
        return self

    @model_validator(mode="after")
    def _more_of_the_same(self) -> ExperimentSpec:
        if self.more_seeds is None:
            return self
        if unknown := set(self.more_seeds.methods) - {self.baseline, *self.methods}:
            raise ValueError(f"more_seeds: {min(unknown)} is none of methods")
        if known := set(self.more_seeds.seeds) & set(self.seeds):
            raise ValueError(f"more_seeds: {min(known)} is one of seeds already")
        return self

    def trials(self) -> tuple[Trial, ...]:
        """Return all trials in the order in which they are run.

        All methods of a workload and seed come together, the baseline first, and one seed of
        everything before the next, so that what is there after an interruption can be compared.
        """
        played = [(seed, self.methods) for seed in self.seeds]
        if self.more_seeds is not None:
            played += [(seed, self.more_seeds.methods) for seed in self.more_seeds.seeds]
        return tuple(
            self._trial(workload, alpha, clients, dropout, seed, method)
            for seed, methods in played
            for workload in self.workloads
            for alpha in self.alphas
            for clients in self.clients
            for dropout in self.dropout
            for method in dict.fromkeys((self.baseline, *methods))
        )

    def _trial(  # noqa: PLR0917  # the six axes
        self, workload: str, alpha: float, clients: int, dropout: float, seed: int, method: str
    ) -> Trial:
        modules = self.target_modules
        return Trial(
            experiment=self.name,
            workload=workload,
            alpha=alpha,
            clients=clients,
            cohort=self.cohort,
            dropout=dropout,
            model=self.model,
            device=self.device,
            dtype=self.dtype,
            rank=self.rank,
            lora_alpha=self.lora_alpha,
            target_modules=modules if isinstance(modules, str) else tuple(modules),
            local=self.local,
            slowdown_share=self.slowdown.share,
            slowdown_factor=self.slowdown.factor,
            rounds=self.rounds,
            seed=seed,
            segment_bytes=self.segment_bytes,
            heldout_rows=self.heldout_rows,
            evaluate_every=self.evaluate_every,
            target_share=self.target_share,
            baseline=self.baseline,
            method=method,
            quality=self.quality,
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of an experiment; see `ExperimentSpec` for what each attribute is."""

    experiment: str
    workload: str
    alpha: float
    clients: int
    cohort: int
    dropout: float
    model: str
    device: str
    dtype: str
    rank: int
    lora_alpha: int
    target_modules: str | tuple[str, ...]
    local: TrainingPlan
    slowdown_share: float
    slowdown_factor: tuple[float, float]
    rounds: int
    seed: int
    segment_bytes: int
    heldout_rows: int
    evaluate_every: int
    target_share: float
    baseline: str
    method: str
    quality: bool

    @property
    def id(self) -> str:
        """What no other trial of the experiment has; a file's name in any file system."""
        method = self.method.replace(",", "_").replace(":", "~")
        drop = f"-drop{self.dropout:g}" if self.dropout else ""
        return f"{self.workload}-a{self.alpha:g}-n{self.clients}{drop}-s{self.seed}-{method}"

    @property
    def parsed(self) -> Method:
        """The method."""
        return parse_method(self.method)

    def described(self) -> dict[str, Any]:
        """Return the trial as JSON's types; an infinite alpha is the text "inf"."""
        found = asdict(self)
        del found["experiment"]
        share, factor = found.pop("slowdown_share"), found.pop("slowdown_factor")
        found["slowdown"] = {"share": share, "factor": list(factor)}
        if not isinstance(self.target_modules, str):
            found["target_modules"] = list(self.target_modules)
        if math.isinf(self.alpha):
            found["alpha"] = "inf"
        # Files from before these could be chosen do not say them.
        for key, usual in (("device", CPU), ("dtype", _FLOAT32)):
            if found[key] == usual:
                del found[key]
        return found

    def __str__(self) -> str:
        return self.id


def read_spec(path: Path) -> ExperimentSpec:
    """Return the experiment of a YAML file.

    Raises:
        ExperimentError: It cannot be read, or a key or value is not what it has to be.
    """
    try:
        return load(ExperimentSpec, path)
    except SettingsError as error:
        raise ExperimentError(str(error)) from error


def data_folder(spec: ExperimentSpec, given: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the data sets' folder: as given, else as the environment or else the file says."""
    named = environ.get(_DATA_VARIABLE)
    return given or (Path(named) if named else None) or spec.data or Path("data")


def chosen(trials: Sequence[Trial], only: Sequence[str]) -> tuple[Trial, ...]:
    """Return the trials that all filters let through, in their order.

    Args:
        trials: Of one experiment.
        only: `key=value` each, the key one of `FILTERS`; of several with one key, one must match.

    Raises:
        ExperimentError: A filter cannot be read, or none of the trials has its value.
    """
    wanted: dict[str, set[object]] = {}
    for text in only:
        key, equals, value = text.partition("=")
        if key not in FILTERS or not equals:
            known = ", ".join(FILTERS)
            raise ExperimentError(f"--only {text}: write key=value, the key one of {known}")
        wanted.setdefault(key, set()).add(_filter_value(key, value))
    for key, values in wanted.items():
        there = {_value(trial, key) for trial in trials}
        for missing in values - there:
            known = " ".join(sorted(map(str, there)))
            raise ExperimentError(f"--only {key}={missing}: the experiment has {known:.800}")
    return tuple(
        trial
        for trial in trials
        if all(_value(trial, key) in values for key, values in wanted.items())
    )


FILTERS: Final = ("workload", "alpha", "clients", "dropout", "seed", "method", "trial")


def _value(trial: Trial, key: str) -> object:
    return trial.id if key == "trial" else getattr(trial, key)


def _filter_value(key: str, text: str) -> object:
    try:
        match key:
            case "alpha" | "dropout":
                return float(text)
            case "clients" | "seed":
                return int(text)
            case "method":
                return str(parse_method(text))
            case _:
                return text
    except ValueError as error:
        reason = str(error) if isinstance(error, BadMethod) else f"{text!r:.40} is no number"
        raise ExperimentError(f"--only {key}={text:.120}: {reason}") from error


def _once(values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
    twice = next((each for place, each in enumerate(values) if each in values[:place]), None)
    if twice is not None:
        raise ValueError(f"{twice} stands twice in {info.field_name}; leave one out")
    return values


def _method(text: str) -> Method:
    method = parse_method(text)
    try:
        check_method(method, codec_named(method.codec))
    except UnknownCodec as error:
        raise ValueError(f"method {text}: {error}") from error
    return method
