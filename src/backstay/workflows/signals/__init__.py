"""Signals: a word from outside, for one run.

Owns        signal
Guarantees  A signal reaches its run once, in the order of sending, whether the run asks for it before or after it is
            sent. It commits with its audit entry, its event and the wake-up of the run that waits for it.
            A second one with the same key is not sent.
"""

from .awaiting import signal
from .models import SignalInvalid, SignalTimedOut, SignalUnfit, SignalView
from .service import Signals

__all__ = ["SignalInvalid", "SignalTimedOut", "SignalUnfit", "SignalView", "Signals", "signal"]
