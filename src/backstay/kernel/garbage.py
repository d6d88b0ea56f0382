"""How often a server's process looks for cycles of dead objects, and among which.

Each model call makes a few hundred small objects, which die by themselves when it ends. With Python's own thresholds
they set off a search for cycles every other call, and every so often one through all that the imports have left.
"""

import gc

_YOUNG, _MIDDLE, _OLD = 5_000, 20, 10  # new objects before a search; searches before one among the older ones


def settle() -> None:
    """For a process that is ours, once it is ready: what is there now stays and is not searched again, and what comes
    is searched seldom. It takes a tenth of a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
