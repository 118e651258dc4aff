"""What every engine is held to."""

from __future__ import annotations

import os
import signal
import uuid
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, final

import numpy as np
import pytest

from offramp.errors import TrainingError
from offramp_search.engine import Engine, LostEvaluationError
from offramp_search.evaluators import Evaluator, Outputs
from offramp_search.testing._fakes import FakeEvaluator

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_search.spaces import Architecture

__all__ = ["EngineContract", "LethalEvaluator"]


@final
class LethalEvaluator(Evaluator):
    """Kills the process it is called in a number of times, and answers then.

    Args:
        folder: Where it counts.
        deaths: How often it kills.
    """

    def __init__(self, folder: Path, deaths: int) -> None:
        self._folder = folder
        self._deaths = deaths

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """What a ``FakeEvaluator`` answers, unless it kills."""
        if len(list(self._folder.iterdir())) < self._deaths:
            (self._folder / uuid.uuid4().hex).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return FakeEvaluator().evaluate(architecture, seed=seed)


@final
class _Failing(Evaluator):
    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        raise TrainingError(f"no training of {dict(architecture)} with seed {seed} converges")


class EngineContract(ABC):
    """Derive a test class from it, and say how the engine is made.

    Example:
        >>> class TestMine(EngineContract):
        ...     def make_engine(self):
        ...         return MyEngine(workers=2)
    """

    @abstractmethod
    def make_engine(self) -> Engine:
        """The engine under test, with at least two workers in other processes."""

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine under test."""
        return self.make_engine()

    def test_answers_are_those_of_the_evaluator(self, engine: Engine) -> None:
        """However many are asked for at once, and whichever comes first."""
        architectures = [{"unit_0": "1-3", "unit_1": share} for share in ("1-3", "2-2", "3-1")]
        with engine.open(FakeEvaluator()) as evaluator, ThreadPoolExecutor(engine.workers) as pool:
            answers = list(pool.map(lambda one: evaluator.evaluate(one, seed=3), architectures))
        for architecture, answer in zip(architectures, answers, strict=True):
            expected = FakeEvaluator().evaluate(architecture, seed=3)
            np.testing.assert_array_equal(answer.logits, expected.logits)
            np.testing.assert_array_equal(answer.labels, expected.labels)

    def test_an_error_of_the_evaluator_arrives_as_it_is(self, engine: Engine) -> None:
        """The search refuses what cannot be trained, wherever that showed."""
        with (
            engine.open(_Failing()) as evaluator,
            pytest.raises(TrainingError, match="with seed 5 converges"),
        ):
            evaluator.evaluate({"unit_0": "1-3"}, seed=5)

    def test_an_evaluation_whose_process_dies_is_done_again(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        """The answer is the one it would have been."""
        with engine.open(LethalEvaluator(tmp_path, 1)) as evaluator:
            answer = evaluator.evaluate({"unit_0": "1-3"}, seed=3)
        expected = FakeEvaluator().evaluate({"unit_0": "1-3"}, seed=3)
        np.testing.assert_array_equal(answer.logits, expected.logits)
        assert len(list(tmp_path.iterdir())) == 1

    def test_an_evaluation_that_kills_every_process_is_given_up(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        """Or the search would never end."""
        with (
            engine.open(LethalEvaluator(tmp_path, 1_000)) as evaluator,
            pytest.raises(LostEvaluationError),
        ):
            evaluator.evaluate({"unit_0": "1-3"}, seed=3)
        assert 1 < len(list(tmp_path.iterdir())) < 10
