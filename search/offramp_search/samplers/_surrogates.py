"""Surrogates that predict the value of an architecture from few evaluated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["SurrogateKind", "predict_ensemble"]

SurrogateKind = Literal["mlp", "lstm"]

_MEMBERS = 5
_EMBEDDING = 32
_HIDDEN = 64
_STEPS = 200
_LEARNING_RATE = 0.01
_FEWEST_FOR_FOLDS = 25


def predict_ensemble(
    kind: SurrogateKind,
    known: NDArray[np.int64],
    values: NDArray[np.float64],
    candidates: NDArray[np.int64],
    *,
    vocabularies: Sequence[int],
    seed: int,
) -> NDArray[np.float64]:
    """Mean prediction of five networks, each trained on another 4/5 of what is known.

    PNAS (Liu et al. 2018, section 4.2): L1 loss, Adam, only the ranking matters. Choices have an
    embedding that decisions of one vocabulary share, to which that of the position is added, so
    that a decision that was never varied yet is judged by what its choices did elsewhere. ``mlp``
    averages the units' features over the positions, ``lstm`` reads them in order. Both add one
    weight per position and choice. With fewer than 25 architectures the five are drawn with
    replacement instead.

    Args:
        kind: ``mlp`` or ``lstm``.
        known: ``(n, decisions)`` numbers of choices, int64.
        values: ``(n,)`` float64, of any scale.
        candidates: ``(m, decisions)`` int64.
        vocabularies: For each decision the first of its rows in the table of choices.
        seed: Of the weights and the folds.

    Returns:
        ``(m,)`` float64, in units of the standard deviation of ``values``.
    """
    rng = np.random.default_rng(seed)
    n = len(known)
    spread = float(values.std()) or 1.0
    target = torch.tensor((values - values.mean()) / spread, dtype=torch.float32)
    weight = torch.tensor(_member_weights(n, rng), dtype=torch.float32)
    offsets = np.asarray(vocabularies)
    rows = int(max(known.max(initial=0), candidates.max(initial=0)) + offsets.max() + 1)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    make = _Pooled if kind == "mlp" else _Recurrent
    model = make(rows, known.shape[1], generator)
    x = torch.tensor(known + offsets)
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = (weight * (model(x) - target).abs()).sum(1).div(weight.sum(1)).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        predicted = model(torch.tensor(candidates + offsets)).mean(0)
    result: NDArray[np.float64] = predicted.double().numpy()
    return result


def _member_weights(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``(members, n)``: how often each member sees each architecture."""
    if n < _FEWEST_FOR_FOLDS:
        return np.asarray(rng.multinomial(n, np.full(n, 1 / n), _MEMBERS), dtype=np.float64)
    fold = rng.permutation(n) % _MEMBERS
    return np.asarray(fold != np.arange(_MEMBERS)[:, None], dtype=np.float64)


class _Ensemble(nn.Module):
    """Embeddings of all members: ``(members, n, decisions, width)``, and the weights per choice."""

    def __init__(self, rows: int, positions: int, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator
        self.choice = self.uniform(rows, _EMBEDDING, bound=1.0)
        self.position = self.uniform(positions, _EMBEDDING, bound=1.0)
        self.bias = nn.Parameter(torch.zeros(_MEMBERS, 1))
        self.linear = nn.Parameter(torch.zeros(_MEMBERS, positions, rows))

    def uniform(self, *shape: int, bound: float) -> nn.Parameter:
        """Weights of all members."""
        weights = torch.empty(_MEMBERS, *shape)
        return nn.Parameter(weights.uniform_(-bound, bound, generator=self._generator))

    def embed(self, x: Tensor) -> Tensor:
        """Choice and position."""
        return self.choice[:, x] + self.position[:, None]

    def straight(self, x: Tensor) -> Tensor:
        """What each choice adds by itself."""
        positions = torch.arange(x.shape[1])
        added: Tensor = self.linear[:, positions, x].sum(2) + self.bias
        return added


class _Pooled(_Ensemble):
    def __init__(self, rows: int, positions: int, generator: torch.Generator) -> None:
        super().__init__(rows, positions, generator)
        self.unit = self.uniform(_EMBEDDING, _HIDDEN, bound=_EMBEDDING**-0.5)
        self.hidden = self.uniform(_HIDDEN, _HIDDEN, bound=_HIDDEN**-0.5)
        self.out = self.uniform(_HIDDEN, 1, bound=_HIDDEN**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        units = (self.embed(x) @ self.unit[:, None]).relu().mean(2)
        hidden = (units @ self.hidden).relu()
        return (hidden @ self.out).squeeze(2) + self.straight(x)


class _Recurrent(_Ensemble):
    def __init__(self, rows: int, positions: int, generator: torch.Generator) -> None:
        super().__init__(rows, positions, generator)
        bound = _HIDDEN**-0.5
        self.read = self.uniform(_EMBEDDING, 4 * _HIDDEN, bound=bound)
        self.again = self.uniform(_HIDDEN, 4 * _HIDDEN, bound=bound)
        self.out = self.uniform(_HIDDEN, 1, bound=bound)

    def forward(self, x: Tensor) -> Tensor:
        gates_in = self.embed(x) @ self.read[:, None]
        hidden = torch.zeros(_MEMBERS, len(x), _HIDDEN)
        cell = torch.zeros_like(hidden)
        for at in range(x.shape[1]):
            gates = gates_in[:, :, at] + hidden @ self.again
            take, keep, give, new = gates.chunk(4, 2)
            cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
            hidden = give.sigmoid() * cell.tanh()
        return (hidden @ self.out).squeeze(2) + self.straight(x)
