"""What the room counts. No tenant labels: a tenant's own figures come from the API."""

from dataclasses import dataclass
from functools import cache

from prometheus_client import Counter, Histogram

from ..kernel import telemetry

depth = telemetry.gauge("backstay_jobs", "Jobs that are not finished.", ["queue", "state"], mode="livemostrecent")
rescued = telemetry.counter("backstay_job_rescues_total", "Jobs taken back from a dead worker.", ["queue", "kind"])
buried = telemetry.counter("backstay_workers_lost_total", "Workers declared dead.")
lapses = telemetry.counter(
    "backstay_worker_lapses_total", "Times this worker stopped its own work because its heartbeat was late."
)
lost = telemetry.counter(
    "backstay_job_writes_fenced_total", "Outcomes that were refused because another worker has the job."
)
full = telemetry.counter(
    "backstay_job_limits_full_total", "Claims that found a limit of a queue or job full.", ["kind", "name"]
)
whole_scans = telemetry.counter(
    "backstay_job_scans_put_off_total", "Times claims began behind dead entries because a whole scan was costly."
)
# No job names: tenants make them up.
remote = telemetry.counter("backstay_remote_job_answers_total", "Answers of remote workers by outcome.", ["outcome"])
_start = telemetry.histogram(
    "backstay_job_start_seconds", "From the time a job was to run until its handler began.", ["queue"]
)
_run = telemetry.histogram("backstay_job_run_seconds", "How long an attempt took.", ["queue", "kind"])
_attempts = telemetry.counter("backstay_job_attempts_total", "Attempts by outcome.", ["queue", "kind", "outcome"])


@dataclass(frozen=True, slots=True)
class HandlerMetrics:
    """The room's metrics for one handler, looked up once: labels cost more than the count."""

    start: Histogram
    run: Histogram
    completed: Counter
    queue: str
    kind: str

    def ended(self, outcome: str) -> None:
        _attempts.labels(self.queue, self.kind, outcome).inc()


@cache
def of(queue: str, kind: str) -> HandlerMetrics:
    return HandlerMetrics(
        _start.labels(queue), _run.labels(queue, kind), _attempts.labels(queue, kind, "completed"), queue, kind
    )
