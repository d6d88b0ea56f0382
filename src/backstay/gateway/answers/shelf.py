"""Where the answer to one request lies: under the digest of the request, and beside those of near requests."""

from datetime import timedelta
from uuid import UUID

from ...kernel.cache import Cache
from ...kernel.clock import Clock
from .models import Hit
from .near import Nearby
from .policy import CachePolicy
from .seal import Seal


class Shelf:
    """Exact answers lie in the kernel's cache; `near` is given when others of near requests will do as well."""

    def __init__(
        self,
        tenant: UUID,
        key: bytes,
        policy: CachePolicy,
        seal: Seal,
        near: Nearby | None,
        cache: Cache,
        clock: Clock,
    ) -> None:
        self._tenant, self._key, self._policy = tenant, key, policy
        self._seal, self._near, self._cache, self._clock = seal, near, cache, clock
        self._place = f"answer:{key.hex()}"

    async def find(self) -> Hit | None:
        return await self._exact() or await self._nearest()

    async def keep(self, body: bytes, by: str) -> bool:
        """Whether it could be kept anywhere."""
        now, ttl = self._clock.now(), self._policy.ttl or 0
        sealed = self._seal.close(self._key, body, by, now)
        exact = await self._cache.set(self._tenant, self._place, sealed, ttl)
        if self._near is None:
            return exact
        return await self._near.keep(self._key, sealed, now, now + timedelta(seconds=ttl)) or exact

    async def _exact(self) -> Hit | None:
        sealed = await self._cache.get(self._tenant, self._place)
        hit = None if sealed is None else self._seal.open(self._key, sealed, self._clock.now())
        return hit if hit is not None and hit.age <= self._policy.oldest else None

    async def _nearest(self) -> Hit | None:
        if self._near is None or self._policy.semantic is None:
            return None
        now = self._clock.now()
        since = now - timedelta(seconds=self._policy.oldest)
        return await self._near.find(self._policy.semantic, since, now)
