"""What a command says: lines for people or, with --json, one JSON object per event; and its exit codes."""

from __future__ import annotations

import json
import sys
from typing import Any

from tqdm import tqdm

from lib_negtrans.errors import UserError

EXIT_DONE, EXIT_SOME_FAILED, EXIT_WRONG_CALL = 0, 1, 2
EXIT_INTERRUPTED = 130  # as shells report SIGINT


class CallError(UserError):
    """The call or one of its files is wrong; the message is one sentence that says what to do."""


class Reporter:
    """Says what happens: lines and a progress bar on a terminal, or JSON events."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._out = sys.stdout  # as it is now: libraries' own talk may be led elsewhere later

    def event(self, kind: str, line: str | None = None, **fields: Any) -> None:
        """One event: `line` for people (unless --quiet), fields for --json."""
        if self.as_json:
            print(json.dumps({"event": kind, **fields}, ensure_ascii=False, default=str), file=self._out, flush=True)
        elif line is not None and not self.quiet:
            tqdm.write(line, file=self._out)

    def result(self, kind: str, line: str, **fields: Any) -> None:
        """An event whose line is what the command was called for: people get it with --quiet too."""
        if self.as_json:
            self.event(kind, **fields)
        else:
            tqdm.write(line, file=self._out)

    def problem(self, line: str, **fields: Any) -> None:
        """A failure that does not end the run: always on standard error, and an event with --json."""
        if self.as_json:
            self.event("error", message=line, **fields)
        tqdm.write(line, file=sys.stderr)

    def silent(self) -> Reporter:
        """One that says nothing but what went wrong, for processes that work beside the main one."""
        return Reporter(as_json=False, quiet=True)

    def bar(self, **options: Any) -> tqdm:
        """A progress bar on standard error, off with --quiet or --json or without a terminal."""
        disable = self.quiet or self.as_json or not sys.stderr.isatty()
        return tqdm(disable=disable, dynamic_ncols=True, file=sys.stderr, **options)
