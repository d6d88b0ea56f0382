"""Spaces: a collection's embedding model is changed while it is written and searched.

Owns        collection_space
States      building → active → standby → retired; building → retired; standby → active (rollback)
Guarantees  From the moment a migration is begun, every write gives its chunks vectors in the old space and in the new.
            One row decides whose vectors are searched. It changes only when no chunk that has a vector in the old space
            lacks one in the new, and the new one's index finds what looking at every vector finds.
            The old space is kept up to date until it is retired, so that going back needs no waiting.
"""

from .models import (
    MigrationPreview,
    MigrationRunning,
    Recall,
    SpaceBusy,
    SpaceNotFound,
    SpaceNotReady,
    SpaceStanding,
    SpaceState,
)
from .service import Spaces

__all__ = [
    "MigrationPreview",
    "MigrationRunning",
    "Recall",
    "SpaceBusy",
    "SpaceNotFound",
    "SpaceNotReady",
    "SpaceStanding",
    "SpaceState",
    "Spaces",
]
