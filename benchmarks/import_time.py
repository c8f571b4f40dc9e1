"""How long a newcomer waits before anything happens: the import of the library, and the command's help.

Each figure is the median of interleaved runs: for the import less what the bare interpreter takes, for the
command as a whole. Exits with 1 when a bound is missed.
"""

import subprocess
import sys
from dataclasses import dataclass
from statistics import median
from time import perf_counter

RUNS = 21


@dataclass(frozen=True)
class Claim:
    """What is measured, against which bound."""

    sentence: str
    arguments: tuple[str, ...]
    bound_milliseconds: float
    is_above_bare: bool


CLAIMS = (
    Claim("import backstay", ("-c", "import backstay"), bound_milliseconds=20, is_above_bare=True),
    Claim("backstay --help", ("-m", "backstay", "--help"), bound_milliseconds=200, is_above_bare=False),
)
BARE = ("-c", "pass")


def main() -> int:
    """Print one sentence for each claim; return 1 when one does not hold."""
    figures = measure(*(claim.arguments for claim in CLAIMS), BARE)
    misses = 0
    for claim in CLAIMS:
        milliseconds = figures[claim.arguments] - (figures[BARE] if claim.is_above_bare else 0)
        misses += milliseconds > claim.bound_milliseconds
        print(f"{claim.sentence} takes {milliseconds:.0f} ms (bound: {claim.bound_milliseconds:.0f} ms)")
    return 1 if misses else 0


def measure(*commands: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    """Return the median of each command in milliseconds; they take turns, so that all meet the same noise."""
    times: dict[tuple[str, ...], list[float]] = {command: [] for command in commands}
    for _ in range(RUNS):
        for command in commands:
            start = perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            times[command].append((perf_counter() - start) * 1000)
    return {command: median(values) for command, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
