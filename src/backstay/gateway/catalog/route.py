"""A route: a name for one or several targets, and how a call moves along them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ...kernel.errors import ConfigurationError
from ..models import Timeouts

ROUTE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
PREFIX = r"[a-z0-9][a-z0-9._-]{0,62}"
MAX_TARGETS, MAX_MODEL = 32, 512
_MODEL = rf"^{PREFIX}:\S(.*\S)?$"

Level = Literal["simple", "moderate", "complex"]
Strategy = Literal["ordered", "weighted", "cost", "latency"]


def printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text")
    return text


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_targets(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    return [{"model": item} if isinstance(item, str) else item for item in value]


Text = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(printable)]
Model = Annotated[str, StringConstraints(pattern=_MODEL, max_length=MAX_MODEL), AfterValidator(printable)]
# One word or several; the condition holds for any of them.
Words = Annotated[
    tuple[Text, ...],
    Field(min_length=1, max_length=100),
    BeforeValidator(_listed, json_schema_input_type=Text | list[Text]),
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Range(_Part):
    """From `min` to `max`, both included; either may be left out."""

    min: int | None = Field(None, ge=0, le=10**9)
    max: int | None = Field(None, ge=0, le=10**9)

    @model_validator(mode="after")
    def _some_number(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("`min` must not be larger than `max`")
        return self

    def holds(self, value: int) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        return f"{'' if self.min is None else self.min}..{'' if self.max is None else self.max}"


Levels = Annotated[
    Annotated[tuple[Level, ...], Field(min_length=1)] | Range,
    BeforeValidator(_listed, json_schema_input_type=Level | list[Level] | Range),
]


class When(_Part):
    """Which requests a target serves: those for which everything that is said here holds."""

    task: Words | None = Field(None, description="The class of the task, as the caller declares it (`backstay-task`).")
    complexity: Levels | None = Field(None, description="Measured: simple, moderate, complex, or a range of the score.")
    tools: bool | None = Field(None, description="With tools, or without.")
    media: bool | None = Field(None, description="With pictures, sound or files, or without.")
    reasoning: bool | None = Field(None, description="With reasoning asked for, or without.")
    input_tokens: Range | None = Field(None, description="Bounds of the input's size, counted as budgets reserve it.")
    feature: Words | None = Field(None, description="The feature that the call is tagged with.")
    user: Words | None = Field(None, description="The user that the call is tagged with.")


class RouteTarget(_Part):
    """A model that may answer. In a list of targets, its name alone is enough."""

    model: Model = Field(description="`provider:model`; the provider may be an account of the tenant.")
    weight: float | None = Field(None, ge=0, le=1e6, description="Its share of a weighted route, 1 unless given.")
    when: When | None = Field(None, description="Serve only these requests.")
    context_window: int | None = Field(
        None, ge=1, le=10**9, description="Tokens; where a request is too long, a larger one is tried next."
    )

    @property
    def share(self) -> float:
        return 1.0 if self.weight is None else self.weight


class Deadlines(_Part):
    """Seconds; what is left out is the gateway's own."""

    connect: float | None = Field(None, gt=0, le=86_400)
    first_token: float | None = Field(None, gt=0, le=86_400)
    idle: float | None = Field(None, gt=0, le=86_400)
    total: float | None = Field(None, gt=0, le=86_400)

    def over(self, own: Timeouts) -> Timeouts:
        """`own`, except where a deadline is given here."""
        return Timeouts(
            connect=own.connect if self.connect is None else self.connect,
            first_token=own.first_token if self.first_token is None else self.first_token,
            idle=own.idle if self.idle is None else self.idle,
            total=own.total if self.total is None else self.total,
        )


class CachePolicy(_Part):
    """Whether answers are kept, and for how long."""

    ttl: float = Field(gt=0, le=30 * 86_400, description="Seconds that an answer is good for.")
    semantic: float | None = Field(
        None, gt=0, le=1, description="Cosine similarity from which another request's answer is good too."
    )


class RouteDefinition(_Part):
    """What a route says beside its name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "targets": [
                        {"model": "anthropic:claude-sonnet-4-5", "when": {"complexity": "complex"}},
                        "openai:gpt-5-mini",
                    ],
                    "sticky": True,
                    "deadlines": {"first_token": 10},
                }
            ]
        }
    )

    targets: Annotated[
        tuple[RouteTarget, ...],
        Field(min_length=1, max_length=MAX_TARGETS),
        BeforeValidator(_as_targets, json_schema_input_type=list[RouteTarget | Model]),
    ]
    strategy: Strategy = Field(
        "ordered",
        description="As listed; at random by weight; cheapest expected cost first; quickest of the last minutes first.",
    )
    sticky: bool = Field(False, description="A conversation stays with its target while that is healthy and may serve.")
    mode: Literal["live", "guarded"] = Field(
        "live", description="`guarded` holds an answer back until it is whole, so that a failure can be made good."
    )
    deadlines: Deadlines = Field(default_factory=Deadlines)
    retries: int | None = Field(None, ge=0, le=5, description="Repeats at one target; the gateway's own unless given.")
    hedge: Literal["off", "p95"] = Field(
        "off", description="`p95`: ask a second target too when the first is slower than its usual worst."
    )
    cache: CachePolicy | None = None
    fallback_on_filter: bool = Field(False, description="Ask the next target when one refuses the content.")
    budget: Text | None = Field(None, description="What is meant to bound it. For people: budgets are set apart.")

    @model_validator(mode="after")
    def _targets_fit_the_strategy(self) -> Self:
        names = [target.model for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} stands twice among the targets: name it once")
        if self.strategy != "weighted" and any(target.weight is not None for target in self.targets):
            raise ValueError(f"weights mean nothing with the strategy {self.strategy}: use `weighted`, or none")
        if self.strategy == "weighted" and not any(target.share for target in self.targets):
            raise ValueError("one target at least needs a weight above 0")
        return self


class Route(RouteDefinition):
    """A route with its name, which callers use in the place of a model's."""

    model_config = ConfigDict(json_schema_extra=None)

    name: str = Field(pattern=ROUTE_NAME, description="Letters, digits, `.`, `_`, `-`; no colon.")

    @classmethod
    def of(cls, name: str, definition: RouteDefinition) -> "Route":
        return cls(name=name, **dict(definition))

    @classmethod
    def direct(cls, model: str) -> "Route":
        """The route that a plain `provider:model` is: one target, nothing else."""
        return Route.model_construct(name=model, targets=(RouteTarget.model_construct(model=model),))

    @property
    def plain(self) -> bool:
        """Its targets are tried as they are listed, whatever the request is."""
        return self.strategy == "ordered" and not self.sticky and all(target.when is None for target in self.targets)

    @property
    def is_direct(self) -> bool:
        return ":" in self.name

    def definition(self) -> Mapping[str, Any]:
        """What is not the default, as JSON has it."""
        return self.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)


def defined(name: str, targets: Sequence[str], more: Mapping[str, Any]) -> Route:
    """A route as a program writes it.

    Raises:
        ConfigurationError: something in it is wrong; the message names it.
    """
    try:
        return Route(name=name, targets=tuple(RouteTarget(model=model) for model in targets), **more)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(f"the route {name} is wrong: {wrong}") from None
