"""Jobs: work that survives the process, enqueued in the caller's transaction.

Owns        job (hot rows), job_done (finished rows by day), blob (payloads over 64 kB), worker (leases), queue and
            tenant_queue (limits and weights), job_limit and job_start (limits of names, starts that a window counts),
            remote_job (what workers in other languages can run)
States      scheduled → available → running → completed | cancelled | discarded, with retryable after a failure
Guarantees  A job enqueued in a transaction exists if and only if that transaction commits. It runs at least once:
            a worker that dies or falls silent loses its jobs within two leases, and its late writes change nothing.
            With a key, at most one job waits and at most one runs.
            Tenants share a queue by weight: however many jobs one has waiting, another's first starts with the next
            claim. Limits (at once, for each key, for each tenant, starts in a time) hold exactly over all workers.
"""

from .bulk.models import BulkCancel, BulkResult, BulkRetry
from .handlers import Job, JobContext
from .limits import LimitInvalid, PerKey, Rate
from .models import (
    JobDetail,
    JobFinished,
    JobInputInvalid,
    JobLost,
    JobNotFound,
    JobNotRetryable,
    JobState,
    JobView,
    QueueView,
    Retry,
    UnknownJob,
)
from .process_child import ProcessContext
from .queues.models import NotTheOperator, QueueLimit, QueueSettings, Share, ShareChange
from .queues.service import Queues
from .remote.models import JobHandledHere, TooManyJobNames, WorkerLost
from .remote.service import RemoteWorkers
from .runner import Worker
from .service import Jobs
from .signals import Cancel, Discard, RetryLater, Signal, Snooze

__all__ = [
    "BulkCancel",
    "BulkResult",
    "BulkRetry",
    "Cancel",
    "Discard",
    "Job",
    "JobContext",
    "JobDetail",
    "JobFinished",
    "JobHandledHere",
    "JobInputInvalid",
    "JobLost",
    "JobNotFound",
    "JobNotRetryable",
    "JobState",
    "JobView",
    "Jobs",
    "LimitInvalid",
    "NotTheOperator",
    "PerKey",
    "ProcessContext",
    "QueueLimit",
    "QueueSettings",
    "QueueView",
    "Queues",
    "Rate",
    "RemoteWorkers",
    "Retry",
    "RetryLater",
    "Share",
    "ShareChange",
    "Signal",
    "Snooze",
    "TooManyJobNames",
    "UnknownJob",
    "Worker",
    "WorkerLost",
]
