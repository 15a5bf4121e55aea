"""Draws as an ArviZ container, for either side of ArviZ's change of interface at 1.0."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ctsgfn.errors import MissingExtra
from ctsgfn.evidence import Evidence


def to_arviz(draws: Mapping[str, Tensor], stats: Mapping[str, Tensor], evidence: Evidence) -> Any:
    """Build an ``InferenceData`` (ArviZ 0.x) or a ``DataTree`` (1.x) with one chain.

    Args:
        draws: by variable name, [N, ..].
        stats: by name, [N], for the group ``sample_stats``.
        evidence: kept among the attributes.

    Raises:
        MissingExtra: when ArviZ is not installed.
    """
    with warnings.catch_warnings():
        # ArviZ 0.x announces 1.0 on import; both are handled below
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import arviz
        except ImportError as error:
            raise MissingExtra("to_arviz needs ArviZ: pip install 'ctsgfn[arviz]'.") from error
    posterior, sample_stats = _chains(draws), _chains(stats)
    if int(arviz.__version__.split(".")[0]) >= 1:
        data = arviz.from_dict({"posterior": posterior, "sample_stats": sample_stats})
    else:
        data = arviz.from_dict(posterior=posterior, sample_stats=sample_stats)
    data.attrs.update(
        inference_library="ctsgfn",
        log_evidence=evidence.log_z,
        log_evidence_stderr=evidence.stderr,
        pareto_k=evidence.pareto_k,
        ess=evidence.ess,
    )
    return data


def _chains(columns: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arrays [1, N, ..]."""
    return {name: value.detach().cpu().numpy()[None] for name, value in columns.items()}
