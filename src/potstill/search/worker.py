"""Another process of a sweep: reads its plan on stdin. ``python -m potstill.search.worker``; no command of users."""

import json
import sys

from potstill.console import Console
from potstill.errors import PotstillError
from potstill.search.job import run_sweep
from potstill.search.plan import Plan


def main() -> int:
    """Work until no trial is left; the exit code."""
    try:
        run_sweep(Plan(**json.load(sys.stdin)), Console(quiet=True), lead=False)
    except PotstillError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
