"""Schedules: jobs that are enqueued at the times of a cron expression, in a time zone.

Owns        schedule, schedule_fire
Guarantees  Each time of a schedule enqueues its job exactly once, in one transaction with the record of the firing,
            however many workers look and wherever one of them is killed. There is no leader. After a time without any
            worker a schedule fires once, for the last time it missed, or not at all (`missed`).
"""

from .cron import Cron, CronInvalid
from .models import Fire, Missed, NewSchedule, ScheduleNotFound, ScheduleView
from .service import Schedules

__all__ = [
    "Cron",
    "CronInvalid",
    "Fire",
    "Missed",
    "NewSchedule",
    "ScheduleNotFound",
    "ScheduleView",
    "Schedules",
]
