"""Events: what happened, committed with what it happened to.

Owns        outbox
Guarantees  An event exists if and only if its transaction commits. Delivery is at-least-once.
"""

from .models import Event
from .service import Events

__all__ = ["Event", "Events"]
