"""What a job starts with: `python -m pipeline.entry FOLDER`, in every task, before its pickle is
opened.

The pickle is opened only if nobody else can have written it. A job whose place a later submission
has taken (its own was believed lost) ends before it begins, so that two never work on one stage.
"""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.intent import superseded
from pipeline.private import require_private

EXIT_SECONDS = 60.0
"""How long the interpreter may take to end once the result is written; then its stacks go to the
log, and it ends: a library that hangs at exit would keep the GPUs until the time limit."""


def main(logs: Path) -> None:
    """Run the job whose attempt has the folder `logs`, if it is still the one that counts."""
    try:
        require_private(logs.parent.parent)
        require_private(logs)
        late = superseded(logs)
    except PipelineError as error:
        sys.exit(f"error: {error}")
    if late:
        print(f"{logs}: a later submission has taken the place of this one; nothing to do")
        return
    from submitit.core.submission import submitit_main

    try:
        submitit_main()
    finally:
        faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
