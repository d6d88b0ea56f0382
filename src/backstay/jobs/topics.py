"""What a worker, or who looks, is woken for."""

READY, DUE, CANCEL = "jobs", "jobs.due", "jobs.cancel"  # topics of the notifier
