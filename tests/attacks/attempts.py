"""What an attack tried, and what fell."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Attempts:
    """Tries of one attack. It fails with those that fell, and without any."""

    made: int = 0
    fell: list[str] = field(default_factory=list)

    def note(self, what: str, *, held: bool) -> None:
        """Count one try. ``what`` says how to repeat it, and what came back."""
        self.made += 1
        if not held:
            self.fell.append(what)
