"""Whom a call may ask, in which order.

Most models and routes answer alike whatever the request is: for them this is worked out once a second, since prices and
keys of accounts hold from one moment to another, and anew as soon as the catalogue changes or a target is resting.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Literal
from uuid import UUID

from ..kernel.clock import Clock
from ..kernel.errors import BadRequest, FieldError
from ..outbound import Breaker
from .answers import OFF, CachePolicy
from .attempts import Health
from .catalog import CachePolicy as RouteCache
from .catalog import Catalog, Plan, Snapshot
from .dialogue import Request
from .errors import GatewayError, PriceUnknown
from .models import Timeouts
from .order import Itinerary
from .providers import Target
from .targets import Targets
from .wire import Body

RETRIES = 2  # at one target, beside the first attempt
_A_SECOND = timedelta(seconds=1)
_MOST = 10_000  # itineraries that are remembered


@dataclass(frozen=True, slots=True)
class _Standing:
    """Good for every request, as long as `snapshot` holds, `since` <= now < `until`, and no target is resting."""

    itinerary: Itinerary
    breakers: tuple[Breaker, ...]
    snapshot: Snapshot
    since: datetime
    until: datetime


class Itineraries:
    """`strict`: what has no known price is refused."""

    def __init__(
        self, catalog: Catalog, targets: Targets, health: Health, clock: Clock, timeouts: Timeouts, strict: bool
    ) -> None:
        self._catalog, self._targets, self._health = catalog, targets, health
        self._clock, self._timeouts, self._strict = clock, timeouts, strict
        self._standing: dict[tuple[UUID, str], _Standing] = {}

    def of(
        self,
        snapshot: Snapshot,
        surface: str,
        request: Request,
        body: Body,
        headers: Mapping[str, str],
        *,
        feature: str,
        user: str | None,
    ) -> Itinerary:
        """The targets that may be asked for the model that `request` names. `headers`: the client's.

        Raises:
            ModelNotFound: there is no such route or model (404). PriceUnknown, NoTargetServes: none can be asked (422).
            BadRequest: the mode, the task or the conversation is wrong (400).
        """
        now = self._clock.now()
        itinerary = self._kept(snapshot, request, now)
        if itinerary is None:
            plan = self._catalog.plan(snapshot, request, body, headers, feature=feature, user=user)
            itinerary = self._worked_out(snapshot, surface, request, plan, now)
        mode = _mode(headers.get("backstay-mode"))
        return itinerary if mode is None else replace(itinerary, mode=mode)

    def is_resting(self, snapshot: Snapshot, model: str) -> bool:
        try:
            return self._targets.breaker(snapshot, model, self._clock.now(), self._health).retry_after > 0
        except GatewayError:
            return False

    def _kept(self, snapshot: Snapshot, request: Request, now: datetime) -> Itinerary | None:
        kept = self._standing.get((snapshot.tenant, request.model))
        if kept is None or kept.snapshot is not snapshot or not kept.since <= now < kept.until:
            return None
        if request.web_searches or _any_rests(kept.breakers):
            return None
        return kept.itinerary

    def _worked_out(self, snapshot: Snapshot, surface: str, request: Request, plan: Plan, now: datetime) -> Itinerary:
        """Targets that cannot be asked are left out, unless none can."""
        targets, why, wrong = [], plan.explained(), None
        for choice in plan.targets:
            try:
                target = self._targets.of(snapshot, choice.model, now, choice.target.context_window)
                self._check_fee(target, request, surface)
                targets.append(target)
            except GatewayError as error:
                wrong = wrong or error
                why["skipped"].append({"model": choice.model, "reason": error.detail})
        if wrong is not None and not targets:
            raise wrong
        route = plan.route
        itinerary = Itinerary(
            targets=tuple(targets),
            timeouts=route.deadlines.over(self._timeouts),
            route=None if route.is_direct else route.name,
            revision=None if route.is_direct else snapshot.routes[route.name].revision,
            cache=_policy(route.cache),
            why=why,
            mode=route.mode,
            retries=RETRIES if route.retries is None else route.retries,
            hedge=self._catalog.board.p95(targets[0].place) if route.hedge == "p95" else None,
            fall_back_on_filter=route.fallback_on_filter,
            answered=partial(self._answered, plan),
        )
        if route.plain and route.hedge == "off" and not request.web_searches:
            self._keep(itinerary, snapshot, request.model, now)
        return itinerary

    def _keep(self, itinerary: Itinerary, snapshot: Snapshot, model: str, now: datetime) -> None:
        breakers = tuple(self._health.breaker_of(target) for target in itinerary.targets)
        if _any_rests(breakers):
            return  # those that rest are asked last for now
        if len(self._standing) >= _MOST:
            self._standing.clear()
        since = now.replace(microsecond=0)
        self._standing[snapshot.tenant, model] = _Standing(itinerary, breakers, snapshot, since, since + _A_SECOND)

    def _check_fee(self, target: Target, request: Request, surface: str) -> None:
        """Raises PriceUnknown: what the request may have the provider do has a fee that nobody knows (422)."""
        searches = request.web_searches and target.wire_for(surface) == surface
        if searches and target.search_fee is None and self._strict:
            raise PriceUnknown(target.name, "web searches of ")

    def _answered(self, plan: Plan, target: Target) -> None:
        if plan.conversation is not None:
            self._catalog.pins.keep(plan.route.name, plan.conversation, target.place[1])


def _any_rests(breakers: Iterable[Breaker]) -> bool:
    return any(breaker.retry_after > 0 for breaker in breakers)


def _policy(cache: RouteCache | None) -> CachePolicy:
    """What a route says about keeping answers."""
    return OFF if cache is None else CachePolicy(ttl=max(1, int(cache.ttl)), semantic=cache.semantic)


def _mode(given: str | None) -> Literal["live", "guarded"] | None:
    match given:
        case None | "live" | "guarded":
            return given
    raise BadRequest("`backstay-mode` is wrong", errors=[FieldError("backstay-mode", "must be live or guarded")])
