"""State machines: declared once, and then the database lets no instance leave the declared ways.

Owns        machine, machine_state, machine_rule (definitions, one for all tenants), machine_instance,
            machine_transition (history)
States      as declared; an instance begins in the initial one and never leaves a final one
Guarantees  An illegal change of an instance's state is refused by the database, in raw SQL too, and so is a change
            without its history row. State, history, audit entry, event and timer commit together, or not at all.
            Sends at the same time come one after the other, each to the state that the one before has left. A timer
            that comes too late does nothing.
            An instance is deleted as a whole, with its history, and in no other way.
            A registered version never changes, and an instance stays on the version it began with.
"""

from .authored import authored
from .definition import Definition, Rule, State, Transition
from .machine import Machine
from .mermaid import diagram
from .models import (
    CodeMissing,
    DataInvalid,
    GuardRefused,
    IllegalTransition,
    Instance,
    InstanceDetail,
    InstanceMoved,
    InstanceNotFound,
    InstanceView,
    MachineNotFound,
    MachineView,
    TransitionView,
    UnknownEvent,
)
from .service import TIMEOUT, Machines

__all__ = [
    "TIMEOUT",
    "CodeMissing",
    "DataInvalid",
    "Definition",
    "GuardRefused",
    "IllegalTransition",
    "Instance",
    "InstanceDetail",
    "InstanceMoved",
    "InstanceNotFound",
    "InstanceView",
    "Machine",
    "MachineNotFound",
    "MachineView",
    "Machines",
    "Rule",
    "State",
    "Transition",
    "TransitionView",
    "UnknownEvent",
    "authored",
    "diagram",
]
