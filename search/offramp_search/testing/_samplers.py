"""What every sampler must do."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial

__all__ = ["SamplerContract"]

_WIDTHS = ("1-7", "2-6", "4-4", "8-0")
_DECISIONS: Mapping[str, BaseDistribution] = {
    **{f"width_{unit}": CategoricalDistribution(_WIDTHS) for unit in range(5)},
    "depth": IntDistribution(2, 8, step=2),
}


def _value(architecture: Mapping[str, Any]) -> float:
    """A table in which every decision has a best choice, and later ones matter more."""
    right = [architecture[f"width_{unit}"] == "4-4" for unit in range(5)]
    right.append(architecture["depth"] == 6)
    return 0.5 + 0.02 * sum(place for place, hit in enumerate(right, start=1) if hit)


def _run(study: Study, trials: int) -> list[dict[str, Any]]:
    """Ask and tell; every fifth proposal is refused, every seventh trial fails."""
    asked = []
    for _ in range(trials):
        trial = _ask(study)
        asked.append(trial.params)
        if trial.number % 5 == 4:
            trial.set_constraint("mean_ms", 0.25)
            study.tell(trial, state=TrialState.PRUNED)
        elif trial.number % 7 == 6:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, _value(trial.params))
    return asked


def _ask(study: Study) -> Trial:
    return study.ask(fixed_distributions=dict(_DECISIONS))


class SamplerContract(ABC):
    """Say in a subclass how to make the sampler, and pytest runs the contract."""

    @abstractmethod
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        """A new sampler for these decisions, or one that takes any."""

    @pytest.fixture(autouse=True)
    def _quiet(self) -> Iterator[None]:
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        yield
        optuna.logging.set_verbosity(verbosity)

    def study(self, journal: Path | None = None, *, seed: int = 7) -> Study:
        """A study with a new sampler; with a journal the one that is kept there."""
        storage = None if journal is None else JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(
            study_name="search",
            storage=storage,
            direction="maximize",
            sampler=self.make_sampler(seed, _DECISIONS),
            load_if_exists=journal is not None,
        )

    def test_a_resumed_search_proposes_what_an_uninterrupted_one_would(
        self, tmp_path: Path
    ) -> None:
        """With refused and failed trials among the others, interrupted twice."""
        straight = _run(self.study(tmp_path / "straight"), 40)
        resumed = [
            params
            for trials in (13, 9, 18)
            for params in _run(self.study(tmp_path / "resumed"), trials)
        ]
        assert resumed == straight

    def test_another_seed_proposes_something_else(self) -> None:
        """And the same seed the same."""
        assert _run(self.study(), 30) == _run(self.study(), 30)
        assert _run(self.study(), 30) != _run(self.study(seed=8), 30)

    def test_two_workers_do_not_repeat_each_other(self, tmp_path: Path) -> None:
        """Each asks before the other has told; almost all proposals differ."""
        workers = [self.study(tmp_path / "shared") for _ in range(2)]
        pairs = []
        for _ in range(8):
            trials = [_ask(worker) for worker in workers]
            pairs.append([json.dumps(trial.params) for trial in trials])
            for worker, trial in zip(workers, trials, strict=True):
                worker.tell(trial, _value(trial.params))
        assert sum(one != other for one, other in pairs) >= 7
        assert len({params for pair in pairs for params in pair}) >= 12

    def test_every_proposal_is_an_architecture(self) -> None:
        """Every decision is taken, in order, with one of its choices."""
        asked = _run(self.study(), 40)
        for params in asked:
            assert list(params) == list(_DECISIONS)
            assert params["depth"] in (2, 4, 6, 8)
            assert {params[f"width_{unit}"] for unit in range(5)} <= set(_WIDTHS)
        assert len({json.dumps(params) for params in asked}) > 10

    def test_a_refused_proposal_is_not_taken_for_an_evaluated_one(self) -> None:
        """Refusals have no value; a search that begins with many of them goes on."""
        study = self.study()
        for _ in range(12):
            trial = _ask(study)
            trial.set_constraint("mean_ms", 1.0)
            study.tell(trial, state=TrialState.PRUNED)
        for _ in range(25):
            trial = _ask(study)
            feasible = trial.params["width_0"] != "8-0"
            trial.set_constraint("mean_ms", -0.5 if feasible else 1.0)
            if feasible:
                study.tell(trial, _value(trial.params))
            else:
                study.tell(trial, state=TrialState.PRUNED)
        best = study.best_trial
        assert best.params["width_0"] != "8-0"
        assert best.value is not None
        assert best.value > 0.5

    def test_what_cannot_be_counted_is_refused(self) -> None:
        """In a sentence that names the decision."""
        study = self.study()
        with pytest.raises(ValueError, match="decision 'rate' is a FloatDistribution; expected"):
            study.ask(fixed_distributions={**_DECISIONS, "rate": FloatDistribution(0, 1)})
