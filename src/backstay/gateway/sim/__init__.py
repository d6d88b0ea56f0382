"""`sim`: a simulated provider, offline and deterministic, that says so in the `model` of every answer.

It speaks the OpenAI format, in the gateway's process and as a server (`backstay sim`), failures included.
Its options are described in `options.py`.
"""

from .options import SimOptions
from .simulator import Reset, Simulator

__all__ = ["Reset", "SimOptions", "Simulator"]
