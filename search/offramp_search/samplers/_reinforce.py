"""The REINFORCE controller of static-to-dynamic search."""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, final

from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from offramp_search.samplers._choices import choice, count, generator, index
from offramp_search.samplers._policies import Decision, LSTMPolicy, Memory, Policy, TablePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["ReinforceSampler"]

_BASELINE_DECAY = 0.9
_ENTROPY_WEIGHT = 1e-4
_LEARNING_RATES = {"table": 0.1, "lstm": 3.5e-3}


@dataclass(slots=True)
class _Controller:
    """A policy, and the running mean and spread of the rewards it has learnt from."""

    policy: Policy
    mean: float = math.nan
    spread: float = math.nan

    def copy(self) -> _Controller:
        return _Controller(self.policy.copy(), self.mean, self.spread)


@dataclass(slots=True)
class _Walk:
    """A trial that is being decided: by which controller, and what it has read so far."""

    controller: _Controller
    memory: Memory
    decisions_read: int = 0


@final
class ReinforceSampler(BaseSampler):
    """Policy-gradient search (Williams 1992), the controller of S2DNAS (Yuan et al. 2020).

    After each finished trial, ``theta += rate * ((R - b) / d * grad log p(a) + eta * grad H)``
    with ``b <- 0.9 b + 0.1 R`` (Zoph and Le 2017, section 3.2).

    What the S2DNAS paper leaves open, or what could not be read, is chosen so: the reward is the
    trial's value, since the thresholds are already solved for the budget; the advantage is divided
    by ``d``, a running mean of its absolute value with the same decay, so that it does not matter
    whether the value is a fraction or a percentage; ``eta`` is 1e-4 times the number of decisions;
    the policy is an independent table per decision, which suits a hundred trials, or with
    ``policy="lstm"`` a one-layer LSTM of width 64 with ``2.5 tanh(logits / 5)``.

    The controller is replayed from the finished trials in the order of their numbers and draws
    from a generator made from the seed, the trial and the decision. So a resumed search proposes
    what an uninterrupted one would have, and workers that share a storage learn from each other;
    an architecture drawn before a slower trial finished is then learnt from as if drawn after it.

    A complete trial teaches its value. A pruned one, an architecture that was refused or broke the
    budget, teaches ``-penalty * min(1, sum of broken constraints)`` as its advantage and leaves
    ``b`` alone. A failed trial teaches nothing.

    Args:
        seed: Not negative.
        policy: ``table`` or ``lstm``.
        learning_rate: 0.1 for the table and 3.5e-3 for the LSTM by default.
        penalty: See above, in units of ``d``.
    """

    def __init__(
        self,
        seed: int,
        *,
        policy: Literal["table", "lstm"] = "table",
        learning_rate: float | None = None,
        penalty: float = 1.0,
    ) -> None:
        if policy not in _LEARNING_RATES:
            raise ValueError(f"unknown policy {policy!r}; expected 'table' or 'lstm'")
        self._seed = seed
        self._policy = policy
        self._learning_rate = _LEARNING_RATES[policy] if learning_rate is None else learning_rate
        self._penalty = penalty
        self._lock = threading.RLock()
        self._study: weakref.ref[Study] | None = None
        # What was learnt from all trials up to the first that is not finished.
        self._prefix = self._new_controller()
        self._prefix_trials = 0
        self._asked: dict[int, _Walk] = {}

    def __str__(self) -> str:
        return (
            f"ReinforceSampler(seed={self._seed}, policy={self._policy!r}, "
            f"learning_rate={self._learning_rate}, penalty={self._penalty})"
        )

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """None: decisions are drawn one after the other, each given those before it."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """None: decisions are drawn one after the other, each given those before it."""
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Fix the controller of this trial: what is known now, and nothing that finishes later."""
        with self._lock:
            self._asked[trial.number] = self._begin(study)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> str | int:
        """Draw one decision from the policy."""
        with self._lock:
            if trial.number not in self._asked:
                self._asked[trial.number] = self._begin(study)
            walk = self._asked[trial.number]
        policy = walk.controller.policy
        for decision in _decisions(trial, since=walk.decisions_read):
            walk.memory = policy.read(walk.memory, decision)
        walk.decisions_read = len(trial.params)
        choices = count(param_name, param_distribution)
        p = policy.probabilities(walk.memory, param_name, choices)
        rng = generator(self._seed, trial.number, param_name)
        return choice(param_distribution, int(rng.choice(choices, p=p / p.sum())))

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Let go of the trial's controller; learning happens when the next trial begins."""
        with self._lock:
            self._asked.pop(trial.number, None)

    def _new_controller(self) -> _Controller:
        if self._policy == "table":
            return _Controller(TablePolicy(self._learning_rate))
        return _Controller(LSTMPolicy(self._learning_rate, self._seed))

    def _begin(self, study: Study) -> _Walk:
        controller = self._replay(study)
        return _Walk(controller, controller.policy.read(None, None))

    def _replay(self, study: Study) -> _Controller:
        """The controller after all finished trials, in the order of their numbers.

        Trials before the first unfinished one are learnt from once and for all; only those that
        overtook it are replayed each time.
        """
        if len(study.directions) != 1:
            raise ValueError("REINFORCE maximises one value; the study has several directions")
        if self._study is None or self._study() is not study:
            self._study = weakref.ref(study)
            self._prefix, self._prefix_trials = self._new_controller(), 0
        sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
        trials = study.get_trials(deepcopy=False)[self._prefix_trials :]
        overtaken = next(
            (at for at, trial in enumerate(trials) if not trial.state.is_finished()), len(trials)
        )
        known = any(trial.state.is_finished() for trial in trials[:overtaken])
        if known and any(walk.controller is self._prefix for walk in self._asked.values()):
            # A trial is still being decided by it, which must know no more than when it began.
            self._prefix = self._prefix.copy()
        for trial in trials[:overtaken]:
            self._learn(self._prefix, trial, sign)
        self._prefix_trials += overtaken
        later = [trial for trial in trials[overtaken:] if trial.state.is_finished()]
        if not later:
            return self._prefix
        controller = self._prefix.copy()
        for trial in later:
            self._learn(controller, trial, sign)
        return controller

    def _learn(self, controller: _Controller, trial: FrozenTrial, sign: float) -> None:
        taken = _decisions(trial)
        if trial.state is TrialState.COMPLETE:
            assert trial.value is not None
            reward = sign * trial.value
            if math.isnan(controller.mean):
                controller.mean = reward  # the first trial has nothing to be better than
            difference = reward - controller.mean
            if difference and math.isnan(controller.spread):
                controller.spread = abs(difference)
            advantage = difference / controller.spread if difference else 0.0
            controller.mean += (1 - _BASELINE_DECAY) * difference
            controller.spread += (1 - _BASELINE_DECAY) * (abs(difference) - controller.spread)
        elif trial.state is TrialState.PRUNED:
            broken = math.fsum(max(0.0, value) for value in trial.constraints.values())
            advantage = -self._penalty * min(1.0, broken)
        else:
            return
        controller.policy.learn(taken, advantage, _ENTROPY_WEIGHT * len(taken))


def _decisions(trial: FrozenTrial, since: int = 0) -> list[Decision]:
    """The decisions of a trial but for the first ``since``, in the order they were taken."""
    last = [*islice(reversed(trial.params.items()), len(trial.params) - since)]
    return [
        Decision(
            name,
            count(name, trial.distributions[name]),
            index(trial.distributions[name], value),
        )
        for name, value in reversed(last)
    ]
