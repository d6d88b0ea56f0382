"""Built-in jobs: work that every backend needs, on the queue that is there already.

Owns        job_result and job_result_part: what a job has left for whoever asked for it
Jobs        `http` calls an address, `email` hands mail to an SMTP server, `report` writes spend or
            audit into a file, `retention` removes what is to be kept no longer
Guarantees  What headers of an `http` job say is stored sealed. Calls and mails go out at least once, with an
            idempotency key and a Message-ID that stay the same over all attempts of a job. Once the outcome is
            recorded, the job is not done again, even if its worker dies right then.

This room is above the queue and the rooms whose data it reports on, so that none of them has to know another.
"""

from .calls import HttpJob
from .emails import EmailJob
from .http_call import HttpCall
from .mail import Attachment, Email, JobFile
from .models import NoFile, NoResult, ResultView
from .report import NewReport
from .reports import ReportJob
from .results import Results
from .retention import RetentionJob

__all__ = [
    "Attachment",
    "Email",
    "EmailJob",
    "HttpCall",
    "HttpJob",
    "JobFile",
    "NewReport",
    "NoFile",
    "NoResult",
    "ReportJob",
    "ResultView",
    "Results",
    "RetentionJob",
]
