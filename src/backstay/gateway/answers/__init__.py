"""Answers that are given again: to the same request, to one that means the same, to those that ask at the same time.

Owns        cached_answer (and keys `answer:…` in the kernel's cache)
States      none: an answer is kept until its time has passed
Guarantees  Off unless the route or the request asks for it.
            Keys are digests under the master key with the tenant in them, answers are sealed with tenant and key as
            context: what one tenant keeps can neither be found nor opened for another.
            Only whole answers that ended by themselves are kept or shared; see decision 0012.
            Whatever goes wrong in here is a miss.
"""

from .models import Embedder, Hit, lasting
from .policy import OFF, CachePolicy
from .question import Question, Surface
from .service import Answers, Flight

__all__ = ["OFF", "Answers", "CachePolicy", "Embedder", "Flight", "Hit", "Question", "Surface", "lasting"]
