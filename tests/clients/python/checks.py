"""Checks with names: each runs whatever became of the others, and the report counts them."""

import re
import sys
import time
import traceback


class Checks:
    """Runs what it is told and remembers how it went."""

    def __init__(self):
        self.passed = 0
        self.failures = []
        self.notes = []

    def check(self, name, body, *args):
        """Runs one check; what it raises is its failure."""
        try:
            body(*args)
            self.passed += 1
        except Exception:
            self.failures.append(f"{name}: {traceback.format_exc()}")

    def note(self, text):
        """Says something that the report must not hide, such as what this server cannot do."""
        self.notes.append(text)

    def conclude(self):
        """Prints what happened, with the sum as the last line, and ends the program."""
        for failure in self.failures:
            print("FAILED", failure)
        for note in self.notes:
            print(note)
        print(f"{self.passed} passed, {len(self.failures)} failed")
        sys.exit(1 if self.failures else 0)


def equal(actual, expected):
    """Fails unless both are the same value of the same type; `True` is not 1."""
    if (type(actual), actual) != (type(expected), expected):
        raise AssertionError(f"expected {expected!r}, found {actual!r}")


def rejects(error, pattern, body):
    """Fails unless `body` raises this kind of error with a message that matches."""
    try:
        value = body()
    except error as raised:
        if not re.search(pattern, str(raised)):
            raise AssertionError(f"expected an error like {pattern!r}, found: {raised}") from raised
        return
    raise AssertionError(f"expected an error like {pattern!r}, found the value {value!r}")


def next_window(seconds):
    """Waits for the beginning of the next window, so that it does not turn in the middle of what follows."""
    time.sleep(seconds - time.time() % seconds + 0.005)
