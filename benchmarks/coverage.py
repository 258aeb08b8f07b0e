"""How often the interval of a comparison covers the truth, beside plain percentiles.

`python -m benchmarks.coverage` draws differences from worlds whose mean is known and counts. No timing: the result
does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from stages.evaluation.bootstrap import paired_bootstrap

TRIALS, DRAWS = 1000, 1000
ITEMS = (3, 5, 6, 10, 20, 50, 150)


class World(NamedTuple):
    mean: float
    draw: Callable[[np.random.Generator, int], np.ndarray]


WORLDS: Mapping[str, World] = {
    "even": World(0.0, lambda rng, n: rng.normal(0, 1, n)),
    "skewed": World(1.0, lambda rng, n: rng.exponential(1, n)),
    "one in ten loses its object": World(
        -2.0, lambda rng, n: rng.normal(0, 1, n) - 40 * rng.random(n) * (rng.random(n) < 0.1)
    ),
}


def main() -> None:
    """Print a Markdown table: the share of intervals that hold the true mean, in percent."""
    print("| differences | " + " | ".join(f"{items} videos" for items in ITEMS) + " |")
    print("|:--|" + "--:|" * len(ITEMS))
    for name, world in WORLDS.items():
        cells = [_covered(world, items) for items in ITEMS]
        print(
            f"| {name} | " + " | ".join(f"{ours:.0f} ({plain:.0f})" for ours, plain in cells) + " |"
        )


def _covered(world: World, items: int) -> tuple[float, float]:
    """Percent covered by our interval, and by percentiles of resampled means."""
    rng = np.random.default_rng(0)
    nothing = np.zeros(items)
    ours = plain = 0
    for trial in range(TRIALS):
        change = world.draw(rng, items)
        found = paired_bootstrap(nothing, change, draws=DRAWS, seed=trial)
        means = change[rng.integers(0, items, (DRAWS, items))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        ours += found.low <= world.mean <= found.high
        plain += low <= world.mean <= high
    return 100 * ours / TRIALS, 100 * plain / TRIALS


if __name__ == "__main__":
    main()
