"""Which graph made the data: the example of the README, drawn to figures/graph_posterior.png.

python examples/demo_graphs.py
"""

from __future__ import annotations

from pathlib import Path

import torch

import ctsgfn

OUT = Path(__file__).parents[1] / "figures" / "graph_posterior.png"


def main(out: Path = OUT) -> None:
    """Simulate, fit, print and draw."""
    torch.manual_seed(1)
    rain = torch.randn(100, 1)
    crop = 0.8 * rain + 0.5 * torch.randn(100, 1)
    price = -1.5 * crop + 0.5 * torch.randn(100, 1)
    posterior = ctsgfn.fit_graph(
        torch.cat([rain, crop, price], -1),
        names=["rain", "crop", "price"],
        forbidden=[("price", "rain"), ("crop", "rain")],
        seed=0,
    )
    print(posterior)
    posterior.plot().savefig(out, dpi=120)


if __name__ == "__main__":
    main()
