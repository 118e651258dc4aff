"""What the exits of each architecture answered, kept beside the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from offramp.errors import DataError, ResumeError
from offramp_search.thresholds import Answers
from offramp_search.weights import read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["read_answers", "write_answers"]


def write_answers(folder: Path, number: int, answers: Answers) -> None:
    """Keep a trial's signals and right answers: some ten bytes per image and exit."""
    write_tensors(
        _path(folder, number),
        {
            "signals": torch.from_numpy(answers.signals),
            "correct": torch.from_numpy(answers.correct),
        },
    )


def read_answers(folder: Path, number: int, stage_ms: Sequence[float]) -> Answers:
    """The answers of a trial, if its stages took so long.

    Raises:
        ResumeError: They are not there, or damaged.
    """
    try:
        tensors, _ = read_tensors(_path(folder, number))
    except DataError as error:
        raise ResumeError(
            f"{folder} does not hold what trial {number} answered ({error}); search again in "
            "another folder"
        ) from error
    return Answers.timed(tensors["signals"].numpy(), tensors["correct"].numpy(), stage_ms)


def _path(folder: Path, number: int) -> Path:
    return folder / "answers" / f"{number}.safetensors"
