"""Unnormalised log-densities, with exact answers where they exist."""

from ctsgfn.targets.banana import Banana
from ctsgfn.targets.bge_graphs import BGeGraphs
from ctsgfn.targets.four_squares import FourSquares
from ctsgfn.targets.funnel import Funnel, easy_funnel, hard_funnel
from ctsgfn.targets.gaussian_change_points import GaussianChangePoints
from ctsgfn.targets.gaussian_grid import GaussianGrid, nine_gaussians, twenty_five_gaussians
from ctsgfn.targets.gaussian_mixture import GaussianMixture, forty_gaussians
from ctsgfn.targets.gram_graphs import GramGraphs
from ctsgfn.targets.hypergrid_reward import HypergridReward
from ctsgfn.targets.joint_graphs import JointGraphs
from ctsgfn.targets.linear_gaussian import LinearGaussian, linear_gaussian_toy
from ctsgfn.targets.linear_gaussian_graphs import LinearGaussianGraphs, linear_gaussian_network
from ctsgfn.targets.log_gaussian_cox import LogGaussianCox, log_gaussian_cox
from ctsgfn.targets.many_well import ManyWell
from ctsgfn.targets.mechanisms import Affine, HiddenLayer, Linear
from ctsgfn.targets.model_priors import Bernoulli, BetaBinomial, PoissonSize
from ctsgfn.targets.noises import BinaryNodes, LaplaceNoise, NormalNoise, StudentNoise
from ctsgfn.targets.normal_mixtures import NormalMixtures, acidity, galaxies
from ctsgfn.targets.poisson_change_points import PoissonChangePoints, coal_mining
from ctsgfn.targets.polynomial_order import PolynomialOrder
from ctsgfn.targets.random_networks import RandomNetwork, random_network
from ctsgfn.targets.random_rows import RandomRows
from ctsgfn.targets.ring import Ring
from ctsgfn.targets.selection import LogisticSelection, PoissonSelection, RobustSelection
from ctsgfn.targets.sinusoids import Sinusoids
from ctsgfn.targets.spike_and_slab import GPrior, NormalSlab, SpikeAndSlab, correlated_regression
from ctsgfn.targets.spline_knots import SplineKnots
from ctsgfn.targets.student_mixture import StudentMixture
from ctsgfn.targets.torus import TorusSixModes, VonMisesProduct

__all__ = [
    "Affine",
    "BGeGraphs",
    "Banana",
    "Bernoulli",
    "BetaBinomial",
    "BinaryNodes",
    "FourSquares",
    "Funnel",
    "GPrior",
    "GaussianChangePoints",
    "GaussianGrid",
    "GaussianMixture",
    "GramGraphs",
    "HiddenLayer",
    "HypergridReward",
    "JointGraphs",
    "LaplaceNoise",
    "Linear",
    "LinearGaussian",
    "LinearGaussianGraphs",
    "LogGaussianCox",
    "LogisticSelection",
    "ManyWell",
    "NormalMixtures",
    "NormalNoise",
    "NormalSlab",
    "PoissonChangePoints",
    "PoissonSelection",
    "PoissonSize",
    "PolynomialOrder",
    "RandomNetwork",
    "RandomRows",
    "Ring",
    "RobustSelection",
    "Sinusoids",
    "SpikeAndSlab",
    "SplineKnots",
    "StudentMixture",
    "StudentNoise",
    "TorusSixModes",
    "VonMisesProduct",
    "acidity",
    "coal_mining",
    "correlated_regression",
    "easy_funnel",
    "forty_gaussians",
    "galaxies",
    "hard_funnel",
    "linear_gaussian_network",
    "linear_gaussian_toy",
    "log_gaussian_cox",
    "nine_gaussians",
    "random_network",
    "twenty_five_gaussians",
]
