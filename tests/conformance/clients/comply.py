"""Runs `llm-comply` with its own command line, and every check of it: it would leave those about thinking out for a
model that is not named like one that thinks.
"""

import sys

from llm_comply import cli
from llm_comply import tests as suites


def main() -> int:
    for form in cli.FORMATS:
        for check in suites.get_tests(form):
            check.skip_reason = None
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
