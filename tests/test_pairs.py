"""Networks on pairs of nodes: they commute with permutations of the nodes, and learn."""

from __future__ import annotations

import torch

from ctsgfn.acyclic import Acyclic
from ctsgfn.exact import explore
from ctsgfn.gflownet import GFlowNet
from ctsgfn.kernels.heads.pairs import PairEncoder
from ctsgfn.kernels.spaces.dag import dag, dag_kernels
from ctsgfn.objectives import log_partition_variance
from ctsgfn.targets import LinearGaussianGraphs, linear_gaussian_network
from ctsgfn.training import train


def test_the_kernel_commutes_with_permutations_of_the_nodes() -> None:
    """Permute the columns of the data: the law of the next edge is that of the permuted graph."""
    order = torch.tensor([2, 0, 3, 1])
    one = linear_gaussian_network(4, 20)
    two = LinearGaussianGraphs(one.data[:, order])
    laws = []
    graphs = one.measure.all()[::31]
    for target, x in ((one, graphs), (two, graphs[:, order][:, :, order])):
        torch.manual_seed(0)
        space = dag(4)
        kernel = dag_kernels(space, target, hidden=8, pairs=True)[0].double()
        encoder = kernel.encoder
        assert isinstance(encoder, PairEncoder)
        torch.nn.init.zeros_(encoder.names)  # what tells the nodes apart is then the data alone
        for parameter in kernel.parameters():
            if parameter is not encoder.names:
                torch.nn.init.normal_(parameter, std=0.4)
        s = space.write(x)
        moves = space.kappa.branches[0].live(s)
        assert moves is not None
        row, atom = moves.nonzero(as_tuple=True)
        to = space.kappa.branches[0].push(s[row], atom[:, None])
        table = torch.zeros(len(x), 16).double()
        table[row, atom] = kernel(s[row]).log_density_to(to).exp().detach()
        laws.append((kernel(s).log_stop, table.unflatten(1, (4, 4))))
    torch.testing.assert_close(laws[1][0], laws[0][0])
    torch.testing.assert_close(laws[1][1], laws[0][1][:, order][:, :, order])
    assert float(laws[0][1].std()) > 0.01


def test_the_backward_kernel_knows_what_is_missed() -> None:
    """Untrained: an edge goes with probability proportional to the root of what r gains by it."""
    target = linear_gaussian_network(4, 20)
    space = dag(4)
    backward = dag_kernels(space, target, hidden=8, pairs=True)[1].double()
    assert backward.trainable
    x = Acyclic(4).all()[-3:-2]
    assert int(x.sum()) > 3
    tail, head = x[0].nonzero(as_tuple=True)
    less = x.expand(len(tail), -1, -1).clone()
    less[torch.arange(len(tail)), tail, head] = False
    law = backward(space.write(x.expand(len(tail), -1, -1))).log_density_to(space.write(less))
    torch.testing.assert_close(law.detach(), (0.5 * target.log_density(less)).log_softmax(0))


def test_a_flow_on_pairs_learns_the_posterior() -> None:
    """Total variation of the exact terminating law: below 0.05 after 150 updates."""
    target = linear_gaussian_network(3, rows=12, seed=3)
    space = dag(3)
    torch.manual_seed(0)
    gfn = GFlowNet(space, *dag_kernels(space, target, hidden=16, pairs=True))
    train(gfn, target, steps=150, objective=log_partition_variance, batch_size=64, lr=1e-2, seed=0,
          progress_bar=False)  # fmt: skip
    assert explore(space).total_variation(gfn.forward_kernel, target) < 0.05
