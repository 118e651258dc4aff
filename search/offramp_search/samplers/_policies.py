"""What REINFORCE learns: a probability for every choice of every decision."""

from __future__ import annotations

import copy
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, final

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Decision", "LSTMPolicy", "Memory", "Policy", "TablePolicy"]

Memory = tuple[Tensor, Tensor] | None
"""What a policy keeps in mind of the decisions taken so far; nothing before it has read any."""


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that was taken.

    Attributes:
        name: Its name.
        choices: How many choices there were.
        taken: The number of the one taken.
    """

    name: str
    choices: int
    taken: int


class Policy(ABC):
    """Gives a distribution for each decision in turn, and learns from whole architectures.

    A decision is known by its name and may be absent from some architectures.
    """

    @abstractmethod
    def read(self, memory: Memory, decision: Decision | None) -> Memory:
        """Bear a decision in mind; ``None`` stands before the first one."""

    @abstractmethod
    def probabilities(self, memory: Memory, name: str, choices: int) -> NDArray[np.float64]:
        """``(choices,)`` float64, given that all decisions before this one were read."""

    @abstractmethod
    def learn(self, taken: Sequence[Decision], advantage: float, entropy_weight: float) -> None:
        """Move along ``advantage * grad log p(taken) + entropy_weight * grad entropy``."""

    @abstractmethod
    def copy(self) -> Self:
        """A policy that learns on its own from here."""


@final
class TablePolicy(Policy):
    """One independent table of logits for each decision, moved by plain gradient ascent.

    Args:
        learning_rate: Of the logits.
    """

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._logits: dict[str, NDArray[np.float64]] = {}

    def read(self, memory: Memory, decision: Decision | None) -> Memory:
        """Keep nothing in mind."""
        return None

    def probabilities(self, memory: Memory, name: str, choices: int) -> NDArray[np.float64]:
        """Softmax of the decision's own logits, whatever was decided before."""
        logits = self._logits.get(name, np.zeros(choices))
        exponentials = np.exp(logits - logits.max())
        result: NDArray[np.float64] = exponentials / exponentials.sum()
        return result

    def learn(self, taken: Sequence[Decision], advantage: float, entropy_weight: float) -> None:
        """One step on every decision that was taken."""
        for decision in taken:
            p = self.probabilities(None, decision.name, decision.choices)
            toward = np.eye(decision.choices)[decision.taken] - p
            logarithm = np.log(np.maximum(p, 1e-300))
            entropy = -(p * logarithm).sum()
            spread = -p * (logarithm + entropy)
            step = self._learning_rate * (advantage * toward + entropy_weight * spread)
            self._logits[decision.name] = (
                self._logits.get(decision.name, np.zeros(decision.choices)) + step
            )

    def copy(self) -> TablePolicy:
        """Cheap: the tables are never changed in place."""
        other = TablePolicy(self._learning_rate)
        other._logits = dict(self._logits)
        return other


@final
class LSTMPolicy(Policy):
    """A one-layer LSTM that reads each decision as it is taken, moved by Adam.

    Every decision has its own embedding of its choices and its own softmax, made on first sight
    from the seed and the decision's name, so that the order of first sight does not matter.

    Args:
        learning_rate: Of Adam.
        seed: Of the initial weights.
        hidden: Width of the LSTM.
        temperature: Logits are divided by it before ``tanh``.
        tanh_constant: Logits are between minus and plus this.
    """

    def __init__(
        self,
        learning_rate: float,
        seed: int,
        *,
        hidden: int = 64,
        temperature: float = 5.0,
        tanh_constant: float = 2.5,
    ) -> None:
        self._seed = seed
        self._hidden = hidden
        self._temperature = temperature
        self._tanh_constant = tanh_constant
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._lstm = nn.LSTM(hidden, hidden)
        self._weights = list(self._lstm.parameters())
        self._embeddings: dict[str, nn.Parameter] = {}
        self._heads: dict[str, nn.Parameter] = {}
        self._new: list[nn.Parameter] = []
        self._optimizer = torch.optim.Adam(self._lstm.parameters(), lr=learning_rate, foreach=True)

    def read(self, memory: Memory, decision: Decision | None) -> Memory:
        """One step of the LSTM."""
        with torch.no_grad():
            return self._step(decision, memory)

    def probabilities(self, memory: Memory, name: str, choices: int) -> NDArray[np.float64]:
        """Softmax of this decision after the LSTM has read those before it."""
        assert memory is not None
        with torch.no_grad():
            logits = self._logits(memory[0], name, choices)
            result: NDArray[np.float64] = logits.double().softmax(0).numpy()
        return result

    def learn(self, taken: Sequence[Decision], advantage: float, entropy_weight: float) -> None:
        """One step of Adam on the whole sequence."""
        # The whole sequence is known, so the LSTM reads it at once.
        for decision in taken:
            self._meet(decision.name, decision.choices)
        gain = torch.zeros(())
        if taken:
            read = [torch.zeros(self._hidden)]
            read += [self._embeddings[decision.name][decision.taken] for decision in taken[:-1]]
            hidden = self._lstm(torch.stack(read)[:, None])[0][:, 0]
            for choices in sorted({decision.choices for decision in taken}):
                places = [at for at, d in enumerate(taken) if d.choices == choices]
                heads = torch.stack([self._heads[taken[at].name] for at in places])
                raw = (heads @ hidden[places][:, :, None])[:, :, 0]
                log_p = self._bounded(raw).log_softmax(1)
                chosen = torch.tensor([taken[at].taken for at in places])
                gain = gain + advantage * log_p.gather(1, chosen[:, None]).sum()
                gain = gain - entropy_weight * (log_p.exp() * log_p).sum()
        if self._new:
            # In one group, because adding one goes through all that are there.
            self._optimizer.add_param_group({"params": self._new})
            self._new = []
        if taken:
            self._optimizer.zero_grad()
            (-gain).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def copy(self) -> LSTMPolicy:
        """Weights and the optimiser's moments."""
        return copy.deepcopy(self)

    def _step(self, last: Decision | None, state: Memory) -> tuple[Tensor, Tensor]:
        if last is None:
            read = torch.zeros(self._hidden)
        else:
            self._meet(last.name, last.choices)
            read = self._embeddings[last.name][last.taken]
        if state is None:
            state = (torch.zeros(self._hidden), torch.zeros(self._hidden))
        hidden, cell = torch.lstm_cell(read[None], [part[None] for part in state], *self._weights)
        return hidden[0], cell[0]

    def _logits(self, hidden: Tensor, name: str, choices: int) -> Tensor:
        self._meet(name, choices)
        return self._bounded(self._heads[name] @ hidden)

    def _bounded(self, raw: Tensor) -> Tensor:
        return self._tanh_constant * torch.tanh(raw / self._temperature)

    def _meet(self, name: str, choices: int) -> None:
        if name in self._heads:
            return
        generator = torch.Generator().manual_seed(self._seed ^ zlib.crc32(name.encode()))
        for table in (self._embeddings, self._heads):
            weights = torch.empty(choices, self._hidden).uniform_(-0.1, 0.1, generator=generator)
            table[name] = nn.Parameter(weights)
            self._new.append(table[name])
