"""Surrogates that predict the value of an architecture from few evaluated ones."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["SurrogateKind", "predict_ensemble"]

SurrogateKind = Literal["mlp", "lstm"]

_MEMBERS = 5
_EMBEDDING = 32
_HIDDEN = 64
_STEPS = 200
_LEARNING_RATE = 0.01
_FEWEST_FOR_FOLDS = 25
_FEATURES = 2**25


def predict_ensemble(
    kind: SurrogateKind,
    known: NDArray[np.int64],
    values: NDArray[np.float64],
    candidates: NDArray[np.int64],
    *,
    vocabularies: Sequence[int],
    units: Sequence[int],
    absent: Sequence[int],
    seed: int,
) -> NDArray[np.float64]:
    """Mean prediction of five networks, each trained on another 4/5 of what is known.

    PNAS (Liu et al. 2018, section 4.2): L1 loss, Adam, only the ranking matters. Choices have an
    embedding that decisions of one vocabulary share, to which that of the position is added, so
    that a decision that was never varied yet is judged by what its choices did elsewhere. The
    embeddings of a unit's decisions make its token. ``mlp`` averages the features of the tokens,
    ``lstm`` reads them in order; neither reads a unit that is absent. Both add one weight per
    position and choice. With fewer than 25 architectures the five are drawn with
    replacement instead.

    Args:
        kind: ``mlp`` or ``lstm``.
        known: ``(n, decisions)`` numbers of choices, int64.
        values: ``(n,)`` float64, of any scale.
        candidates: ``(m, decisions)`` int64.
        vocabularies: For each decision the first of its rows in the table of choices.
        units: How many decisions, one after the other, make a unit.
        absent: For each decision the number of the choice that means, where it is the first of its
            unit, that the unit is absent; -1 for none.
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
    model = make(rows, known.shape[1], units, generator)
    firsts = np.cumsum([0, *units[:-1]])
    there, candidates_there = (
        torch.tensor(numbers[:, firsts] != np.asarray(absent)[firsts])
        for numbers in (known, candidates)
    )
    x = torch.tensor(known + offsets)
    most = int(max(known.max(initial=0), candidates.max(initial=0)) + 1)
    met = _Entries.of(known, most, offsets, absent)
    with _one_thread():
        optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            loss = (weight * (model(x, there, met) - target).abs()).sum(1).div(weight.sum(1)).sum()
            loss.backward()
            optimizer.step()
            schedule.step()
        # In parts: the features of twenty thousand candidates would fill the memory.
        size = max(1, _FEATURES // (_MEMBERS * _HIDDEN * known.shape[1]))
        with torch.no_grad():
            parts = [
                model(
                    torch.tensor(candidates[start : start + size] + offsets),
                    candidates_there[start : start + size],
                    _Entries.of(candidates[start : start + size], most, offsets, absent),
                ).mean(0)
                for start in range(0, len(candidates), size)
            ]
    result: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one thread: more only wait for each other, and add up in an order of their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _member_weights(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``(members, n)``: how often each member sees each architecture."""
    if n < _FEWEST_FOR_FOLDS:
        return np.asarray(rng.multinomial(n, np.full(n, 1 / n), _MEMBERS), dtype=np.float64)
    fold = rng.permutation(n) % _MEMBERS
    return np.asarray(fold != np.arange(_MEMBERS)[:, None], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Entries:
    """The choices that some architectures take, each of a decision once.

    Attributes:
        positions: ``(entries,)`` int64, the decision.
        rows: ``(entries,)`` int64, the choice's row in the table of choices.
        there: ``(entries,)`` bool, false where the choice means absence.
        at: ``(n, decisions)`` int64, which entry each architecture has for each decision.
    """

    positions: Tensor
    rows: Tensor
    there: Tensor
    at: Tensor

    @classmethod
    def of(
        cls,
        numbers: NDArray[np.int64],
        most: int,
        offsets: NDArray[np.int64],
        absent: Sequence[int],
    ) -> _Entries:
        numbered = numbers + np.arange(numbers.shape[1]) * most
        met = np.zeros(numbers.shape[1] * most, dtype=bool)
        met[numbered] = True
        places = np.flatnonzero(met)
        entry = np.cumsum(met) - 1
        positions, choices = places // most, places % most
        return cls(
            torch.tensor(positions),
            torch.tensor(choices + offsets[positions]),
            torch.tensor(choices != np.asarray(absent)[positions]),
            torch.tensor(entry[numbered]),
        )


class _Ensemble(nn.Module):
    """Embeddings of all members, and the weights per choice."""

    def __init__(
        self, rows: int, positions: int, units: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self._generator = generator
        self.choice = self.uniform(rows, _EMBEDDING, bound=1.0)
        self.position = self.uniform(positions, _EMBEDDING, bound=1.0)
        self.bias = nn.Parameter(torch.zeros(_MEMBERS, 1))
        self.linear = nn.Parameter(torch.zeros(_MEMBERS, positions, rows))
        self._width = max(units)
        slots = [unit * self._width + at for unit, size in enumerate(units) for at in range(size)]
        self._slots = torch.tensor(slots)
        self._unit_of = self._slots // self._width
        self._tokens = len(units)

    @property
    def token(self) -> int:
        """Features of a unit's token."""
        return self._width * _EMBEDDING

    def uniform(self, *shape: int, bound: float) -> nn.Parameter:
        """Weights of all members."""
        weights = torch.empty(_MEMBERS, *shape)
        return nn.Parameter(weights.uniform_(-bound, bound, generator=self._generator))

    def embed(self, x: Tensor) -> Tensor:
        """Choice and position: ``(members, n, units, token)``; shorter units end in zeros."""
        features = self.choice[:, x] + self.position[:, None]
        if self._width == 1:
            return features
        tokens = features.new_zeros(_MEMBERS, len(x), self._tokens * self._width, _EMBEDDING)
        tokens = tokens.index_copy(2, self._slots, features)
        return tokens.view(_MEMBERS, len(x), self._tokens, -1)

    def straight(self, x: Tensor, there: Tensor) -> Tensor:
        """What each choice adds by itself."""
        positions = torch.arange(x.shape[1])
        weights = self.linear[:, positions, x] * there[:, self._unit_of]
        added: Tensor = weights.sum(2) + self.bias
        return added


class _Pooled(_Ensemble):
    def __init__(
        self, rows: int, positions: int, units: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__(rows, positions, units, generator)
        self.unit = self.uniform(self.token, _HIDDEN, bound=self.token**-0.5)
        self.hidden = self.uniform(_HIDDEN, _HIDDEN, bound=_HIDDEN**-0.5)
        self.out = self.uniform(_HIDDEN, 1, bound=_HIDDEN**-0.5)

    def forward(self, x: Tensor, there: Tensor, entries: _Entries) -> Tensor:
        if self._width == 1:
            return self._of_entries(there, entries)
        features = (self.embed(x) @ self.unit[:, None]).relu() * there[:, :, None]
        return self._head(features.sum(2), there) + self.straight(x, there)

    def _head(self, pooled: Tensor, there: Tensor) -> Tensor:
        units = pooled / there.sum(1).clamp(min=1)[:, None]
        hidden = (units @ self.hidden).relu()
        return (hidden @ self.out).squeeze(2)

    def _of_entries(self, there: Tensor, entries: _Entries) -> Tensor:
        """The same, where every unit is one decision: features are made once for each entry."""
        features = (self.choice @ self.unit)[:, entries.rows]
        features = features + (self.position @ self.unit)[:, entries.positions]
        added = self.linear[:, entries.positions, entries.rows]
        both = torch.cat([features.relu(), added[:, :, None]], dim=2)
        both = (both * entries.there[:, None]).permute(1, 0, 2).flatten(1)
        summed = nn.functional.embedding_bag(entries.at, both, mode="sum")
        summed = summed.view(len(there), _MEMBERS, -1).permute(1, 0, 2)
        return self._head(summed[:, :, :-1], there) + summed[:, :, -1] + self.bias


class _Recurrent(_Ensemble):
    def __init__(
        self, rows: int, positions: int, units: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__(rows, positions, units, generator)
        bound = _HIDDEN**-0.5
        self.read = self.uniform(self.token, 4 * _HIDDEN, bound=bound)
        self.again = self.uniform(_HIDDEN, 4 * _HIDDEN, bound=bound)
        self.out = self.uniform(_HIDDEN, 1, bound=bound)

    def forward(self, x: Tensor, there: Tensor, entries: _Entries) -> Tensor:
        gates_in = self.embed(x) @ self.read[:, None]
        hidden = torch.zeros(_MEMBERS, len(x), _HIDDEN)
        cell = torch.zeros_like(hidden)
        for at in range(gates_in.shape[2]):
            gates = gates_in[:, :, at] + hidden @ self.again
            take, keep, give, new = gates.chunk(4, 2)
            now = there[:, at, None]
            cell = torch.where(now, keep.sigmoid() * cell + take.sigmoid() * new.tanh(), cell)
            hidden = torch.where(now, give.sigmoid() * cell.tanh(), hidden)
        return (hidden @ self.out).squeeze(2) + self.straight(x, there)
