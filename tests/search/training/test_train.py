"""Training learns, resumes to the same bits, and says when it cannot go on."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from offramp.errors import DataError, ResumeError, TrainingError
from offramp_search.training import (
    Recipe,
    TrainingProgress,
    accuracies,
    evaluate,
    fastest_precision,
    train,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from offramp_export.network import MultiStageNetwork
    from offramp_search.data import ImageSet

_SPEC = importlib.util.spec_from_file_location("_tiny", Path(__file__).with_name("conftest.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
tiny = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tiny)

AUGMENTED = Recipe(epochs=3, batch_size=32, learning_rate=0.1, horizontal_flip=True, pad_crop=1)


class StoppedError(Exception):
    """The process was killed, as far as the training can tell."""


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_all_exits_learn(network: MultiStageNetwork, images: ImageSet) -> None:
    before = accuracies(evaluate(network, images), images.labels)
    history = train(network, images, recipe=Recipe(epochs=6, batch_size=32), seed=1)
    after = accuracies(evaluate(network, images), images.labels)
    assert len(history.epochs) == 6
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert min(after) > 0.9 > max(before)
    assert not network.training


def test_weights_end_in_the_layout_that_converters_expect(
    network: MultiStageNetwork, images: ImageSet
) -> None:
    train(network, images, recipe=Recipe(epochs=1))
    assert all(tensor.is_contiguous() for tensor in network.state_dict().values())


def test_a_static_network_is_a_tuple_of_one(images: ImageSet) -> None:
    network = tiny.tiny_network(stages=1)
    train(network, images, recipe=Recipe(epochs=1, optimizer="adamw", learning_rate=1e-3))
    assert evaluate(network, images).shape == (1, 192, 3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_ends_in_the_same_bits(
    images: ImageSet, tmp_path: Path, optimizer: str
) -> None:
    recipe = Recipe(
        epochs=3,
        batch_size=32,
        learning_rate=0.01,
        optimizer=optimizer,  # type: ignore[arg-type]
        horizontal_flip=True,
        pad_crop=1,
    )
    network = tiny.tiny_network(seed=9)

    def teacher(batch: Tensor) -> Tensor:
        logits: Tensor = network(batch)[-1]
        return logits

    def stop(progress: TrainingProgress) -> None:
        if progress.epoch == 2:
            raise StoppedError

    whole, killed = tiny.tiny_network(), tiny.tiny_network()
    resumed = tiny.tiny_network(seed=1)  # what it starts from no longer matters
    path = tmp_path / "checkpoint.safetensors"
    expected = train(whole, images, recipe=recipe, seed=4, teacher=teacher)
    with pytest.raises(StoppedError):
        train(
            killed,
            images,
            recipe=recipe,
            seed=4,
            teacher=teacher,
            checkpoint=path,
            progress=stop,
        )
    history = train(resumed, images, recipe=recipe, seed=4, teacher=teacher, checkpoint=path)
    assert same(whole, resumed)
    assert [epoch.loss for epoch in history.epochs] == [epoch.loss for epoch in expected.epochs]


_SCRIPT = """
import importlib.util, sys
from pathlib import Path
import numpy as np
spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
from offramp_search.data import ImageSet
from offramp_search.training import Recipe, train
generator = np.random.default_rng(0)
images = ImageSet(
    generator.integers(0, 256, (256, 8, 8, 3)).astype(np.uint8),
    generator.integers(0, 3, 256).astype(np.int64),
)
train(
    tiny.tiny_network(), images, recipe=Recipe(epochs=10_000, batch_size=64),
    checkpoint=Path(sys.argv[2]), progress=lambda progress: print(progress.epoch, flush=True),
)
"""


def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    epochs = []
    for until in (3, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(tiny.__file__), str(checkpoint)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(int(line))
            if seen[-1] >= until:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        process.wait(timeout=30)
        epochs.append(seen)
    assert epochs[0][0] == 0
    # The second process went on at the epoch that the first had begun or just finished.
    assert epochs[1][0] in (epochs[0][-1], epochs[0][-1] + 1)


def test_a_checkpoint_of_another_training_is_refused(
    network: MultiStageNetwork, images: ImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train(network, images, recipe=Recipe(epochs=1), checkpoint=path, seed=0)
    with pytest.raises(ResumeError, match="another network, recipe, seed, data"):
        train(network, images, recipe=Recipe(epochs=1), checkpoint=path, seed=1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="no readable safetensors file"):
        train(network, images, recipe=Recipe(epochs=1), checkpoint=path, seed=0)


def test_a_finished_checkpoint_is_not_trained_again(images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    first, second = tiny.tiny_network(), tiny.tiny_network(seed=1)
    train(first, images, recipe=AUGMENTED, checkpoint=path)
    steps: list[int] = []
    train(
        second,
        images,
        recipe=AUGMENTED,
        checkpoint=path,
        before_step=lambda step, generator: steps.append(step),
    )
    assert steps == []
    assert same(first, second)


def test_the_callers_random_numbers_stay_as_they_were(
    network: MultiStageNetwork, images: ImageSet
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(network, images, recipe=AUGMENTED)
    assert torch.equal(torch.rand(4), expected)


def test_a_teacher_is_asked_once_per_image_unless_images_change(
    images: ImageSet, network: MultiStageNetwork
) -> None:
    asked: list[int] = []

    def teacher(batch: Tensor) -> Tensor:
        asked.append(len(batch))
        return torch.zeros(len(batch), 3)

    train(network, images, recipe=Recipe(epochs=4, batch_size=64), teacher=teacher)
    assert sum(asked) == 192
    asked.clear()
    train(
        network,
        images,
        recipe=Recipe(epochs=4, batch_size=64, horizontal_flip=True),
        teacher=teacher,
    )
    assert sum(asked) == 4 * 192


def test_a_teacher_is_followed_where_the_labels_do_not_count(images: ImageSet) -> None:
    """With alpha 1 the student takes over even a teacher that is always wrong."""
    network = tiny.tiny_network()

    def teacher(batch: Tensor) -> Tensor:
        brightest = batch.mean(dim=(1, 2)).argmax(dim=1)
        return 8 * torch.nn.functional.one_hot((brightest + 1) % 3, 3).float()

    recipe = Recipe(epochs=8, batch_size=32, distill_alpha=1.0, distill_temperature=1.0)
    train(network, images, recipe=recipe, teacher=teacher)
    logits = evaluate(network, images)
    assert min(accuracies(logits, (images.labels + 1) % 3)) > 0.9
    assert max(accuracies(logits, images.labels)) < 0.1


def test_before_step_gets_a_generator_of_its_own(
    network: MultiStageNetwork, images: ImageSet
) -> None:
    drawn: list[tuple[int, float]] = []

    def before_step(step: int, generator: np.random.Generator) -> None:
        drawn.append((step, generator.random()))

    recipe = Recipe(epochs=2, batch_size=64)
    train(network, images, recipe=recipe, before_step=before_step, seed=7)
    again = list(drawn)
    drawn.clear()
    train(network, images, recipe=recipe, before_step=before_step, seed=7)
    assert drawn == again
    assert [step for step, _ in drawn] == list(range(6))
    assert len({value for _, value in drawn}) == 6


def test_a_loss_that_diverges_is_an_error(network: MultiStageNetwork, images: ImageSet) -> None:
    recipe = Recipe(epochs=50, batch_size=32, learning_rate=1e30, clip_norm=None)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in epoch .* learning rate"):
        train(network, images, recipe=recipe)


def test_no_images_are_an_error(network: MultiStageNetwork, images: ImageSet) -> None:
    with pytest.raises(DataError, match="no images to train on"):
        train(network, images.take(np.arange(0)), recipe=Recipe(epochs=1))


def test_progress_says_where_it_is(network: MultiStageNetwork, images: ImageSet) -> None:
    seen: list[TrainingProgress] = []
    train(network, images, recipe=Recipe(epochs=2, batch_size=64), progress=seen.append)
    assert (seen[-1].epoch, seen[-1].step, seen[-1].steps) == (1, 6, 6)
    assert seen[-1].eta_s == 0
    assert seen[-1].images_per_second > 0
    assert len(seen[-1].exit_accuracies) == 2


def test_evaluation_does_not_depend_on_the_batch(
    network: MultiStageNetwork, images: ImageSet
) -> None:
    network.train()
    whole = evaluate(network, images, batch_size=192)
    np.testing.assert_allclose(evaluate(network, images, batch_size=50), whole, atol=1e-5)
    assert network.training
    assert whole.dtype == np.float32


def test_bfloat16_is_only_chosen_where_the_hardware_has_it() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or torch.cuda.is_available():
        pytest.skip("the flags of the processor cannot be read here")
    expected = "bf16-mixed" if "avx512_bf16" in flags.read_text() else "32-true"
    assert fastest_precision() == expected
