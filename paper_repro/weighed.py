r"""The variational algorithms off-policy: each kernel's gradient with self-normalised importance weights.

With trajectories drawn by p, :math:`a \propto p_F / p` stands for the law P_F and :math:`c \propto r p_B / p`
for the law P_B. The four algorithms (Malkin et al., 2023, arXiv 2210.00580, Table 1) combine

- p_F by D(P_F | P_B), ``score``: :math:`\sum_i a_i (\bar w - w_i) \nabla \log p_F`,
- p_F by D(P_B | P_F), ``likelihood``: :math:`-\sum_i c_i \nabla \log p_F`,
- p_B by D(P_F | P_B), ``likelihood``: :math:`-\sum_i a_i \nabla \log p_B`,
- p_B by D(P_B | P_F), ``score``: :math:`\sum_i c_i (w_i - \bar w) \nabla \log p_B`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ctsgfn.balance import Balance
from ctsgfn.objectives import Objective, objective


class Weighs(Protocol):
    """A behaviour that records log p_F - log p of the trajectories it drew last."""

    log_ratio: Tensor  # [N]


ALGORITHMS = {
    "reverse KL": ("score", "likelihood"),
    "forward KL": ("likelihood", "score"),
    "wake-sleep": ("likelihood", "likelihood"),
    "reverse wake-sleep": ("score", "score"),
}
"""How p_F and p_B learn."""


def weighed(algorithm: str, drawn: Weighs) -> Objective:
    """An algorithm's objective on trajectories that ``drawn`` draws; its value means nothing."""
    forward, backward = ALGORITHMS[algorithm]

    @objective()
    def loss(b: Balance) -> Tensor:
        w = b.log_weight.detach()
        a, c = drawn.log_ratio.softmax(0), (w + drawn.log_ratio).softmax(0)
        log_forward, log_backward = b.total(b.log_forward), b.total(b.log_backward)
        if forward == "score":
            total = (a * ((a * w).sum() - w) * log_forward).sum()
        else:
            total = -(c * log_forward).sum()
        if backward == "score":
            return total + (c * (w - (c * w).sum()) * log_backward).sum()
        return total - (a * log_backward).sum()

    return loss
