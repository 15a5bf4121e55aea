"""ctsgfn: generative flow networks on continuous, discrete and mixed spaces."""

__version__ = "0.1.0"
