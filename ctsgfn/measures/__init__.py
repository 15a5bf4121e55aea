r"""Dominating measures as first-class values: frozen, hashable, comparable.

Every log-density of the package is a density against one of these, and two objects that must share
a measure are compared by ``==`` when they meet. Each measure can be *probed*: for ``x, w =
m.probe(n)``, the average of :math:`e^{w_i} f(x_i)` estimates :math:`\int f\,dm`. That turns every
hypothesis of the theory into a sum that can be checked.

References:
    A theory of continuous generative flow networks (Lahlou et al., 2023), arXiv 2301.12594, Def. 1.
"""

from ctsgfn.measures.atom import Atom
from ctsgfn.measures.counting import Counting
from ctsgfn.measures.haar import Haar, wrap
from ctsgfn.measures.lebesgue import Lebesgue
from ctsgfn.measures.measure import Measure
from ctsgfn.measures.product import Product, coordinates, sizes_of
from ctsgfn.measures.pushforward import Pushforward, point_mass
from ctsgfn.measures.sum import Sum

__all__ = [
    "Atom",
    "Counting",
    "Haar",
    "Lebesgue",
    "Measure",
    "Product",
    "Pushforward",
    "Sum",
    "coordinates",
    "point_mass",
    "sizes_of",
    "wrap",
]
