"""The tags that a tenant asks of every call of its callers, so that no cost stays without an owner."""

from dataclasses import dataclass
from enum import StrEnum

from ...kernel.errors import FieldError
from ..errors import TagRequired


class TagName(StrEnum):
    FEATURE = "feature"
    USER = "user"


_HOW = {
    TagName.FEATURE: (
        "this tenant requires the tag `feature`: send the header `backstay-feature`, or `metadata.feature` in the "
        "body, or use an API key that has a feature"
    ),
    TagName.USER: (
        "this tenant requires the tag `user`: send the header `backstay-user`, or the user in the body as your format "
        "has it (`user`, or `metadata.user_id`)"
    ),
}


@dataclass(frozen=True, slots=True)
class RequiredTags:
    """None of them, unless the tenant says otherwise."""

    names: frozenset[TagName] = frozenset()

    def told(self) -> list[TagName]:
        return [name for name in TagName if name in self.names]

    def check(self, *, feature: str | None, user: str | None) -> None:
        """Raises TagRequired (400): a tag is asked for and was not given, by the call or by its key."""
        if not self.names:
            return
        given = {TagName.FEATURE: feature, TagName.USER: user}
        missing = [name for name in self.told() if given[name] is None]
        if missing:
            errors = [FieldError(f"backstay-{name}", _HOW[name]) for name in missing]
            raise TagRequired(f"the call lacks the tag {' and the tag '.join(missing)}", errors)
