"""What a diagnosis says: steps in the order of a login, each with a verdict and, where it failed, what to change."""

from __future__ import annotations

import enum

import msgspec


class Verdict(enum.Enum):
    """How a step went; the value is what stands before it."""

    OK = "ok     "
    NOTE = "note   "
    FAILED = "FAILED "


class Report:
    """Lines for people, in order. The first failure is why the login fails; what could be looked at besides follows."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, verdict: Verdict, title: str, words: str, change: str = "") -> None:
        """One step."""
        self.steps.append(Step(verdict, title, words, change))

    def ok(self, title: str, words: str) -> None:
        """It went well."""
        self.add(Verdict.OK, title, words)

    def note(self, title: str, words: str, change: str = "") -> None:
        """Worth knowing; no failure by itself."""
        self.add(Verdict.NOTE, title, words, change)

    def fail(self, title: str, words: str, change: str) -> None:
        """The login fails here."""
        self.add(Verdict.FAILED, title, words, change)

    @property
    def has_failed(self) -> bool:
        """Does the login fail?"""
        return any(step.verdict is Verdict.FAILED for step in self.steps)

    def lines(self) -> list[str]:
        """The whole text."""
        shown = []
        for step in self.steps:
            shown.append(f"{step.verdict.value}{step.title}: {step.words}")
            if step.change:
                shown.append(f"       -> {step.change}")
        shown.append("The login would fail." if self.has_failed else "The login would succeed, as far as was checked.")
        return shown


class Step(msgspec.Struct, frozen=True):
    """One line, and one more that says what to change."""

    verdict: Verdict
    title: str
    words: str
    change: str
