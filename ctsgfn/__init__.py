"""ctsgfn: generative flow networks on continuous, discrete and mixed spaces."""

from ctsgfn import behaviours, diagnostics, errors, measures, objectives
from ctsgfn.acyclic import Acyclic
from ctsgfn.api import fit, load
from ctsgfn.balance import Balance
from ctsgfn.bayes_factor import BayesFactor, bayes_factor
from ctsgfn.checks import check
from ctsgfn.evidence import Evidence
from ctsgfn.from_pyro import from_pyro
from ctsgfn.from_stan import from_stan
from ctsgfn.gflownet import GFlowNet
from ctsgfn.graph_draws import GraphDraws
from ctsgfn.graph_fit import fit_graph
from ctsgfn.graph_posterior import GraphPosterior
from ctsgfn.history import History
from ctsgfn.kernel import Head, Kernel
from ctsgfn.measures import Atom, Counting, Haar, Lebesgue, Product, Sum
from ctsgfn.model_posterior import ModelPosterior, model_posterior
from ctsgfn.model_target import as_model_target, one_model
from ctsgfn.presets import THOROUGH
from ctsgfn.reference import Branch, ReferenceKernel
from ctsgfn.sampler import Sampler
from ctsgfn.space import Space
from ctsgfn.states import Batch
from ctsgfn.subsets import Subsets
from ctsgfn.target import Target, as_target, transformed
from ctsgfn.training import train
from ctsgfn.with_parameters import Parameterised, WithParameters

__version__ = "0.1.0"

__all__ = [
    "THOROUGH",
    "Acyclic",
    "Atom",
    "Balance",
    "Batch",
    "BayesFactor",
    "Branch",
    "Counting",
    "Evidence",
    "GFlowNet",
    "GraphDraws",
    "GraphPosterior",
    "Haar",
    "Head",
    "History",
    "Kernel",
    "Lebesgue",
    "ModelPosterior",
    "Parameterised",
    "Product",
    "ReferenceKernel",
    "Sampler",
    "Space",
    "Subsets",
    "Sum",
    "Target",
    "WithParameters",
    "as_model_target",
    "as_target",
    "bayes_factor",
    "behaviours",
    "check",
    "diagnostics",
    "errors",
    "fit",
    "fit_graph",
    "from_pyro",
    "from_stan",
    "load",
    "measures",
    "model_posterior",
    "objectives",
    "one_model",
    "train",
    "transformed",
]
