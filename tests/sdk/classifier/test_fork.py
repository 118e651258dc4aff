"""A classifier that a forked child inherits: a clear error there, no harm to the parent."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp import DynamicClassifier
from offramp.classifier import LiveClassifier
from offramp.errors import ClosedError
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from offramp import Bundle

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks on this system"),
    # Other tests of the session have loaded a converter, and with it JAX, which dislikes forks.
    pytest.mark.filterwarnings("ignore:.*JAX is multithreaded:RuntimeWarning"),
]

_inherited: Any = None


def _try_inherited(image: NDArray[np.uint8]) -> str:
    try:
        return str(_inherited.predict(image).label)
    except ClosedError as error:
        _inherited.close()
        return str(error)


@pytest.mark.parametrize("threads", [1, 2])
def test_multiprocessing(calibrated: Bundle, threads: int) -> None:
    global _inherited
    image = calibrated.vectors().images[0]
    with DynamicClassifier.load(calibrated, policy="last", threads=threads) as classifier:
        expected = classifier.predict(image).label
        _inherited = classifier
        with multiprocessing.get_context("fork").Pool(1) as pool:
            said = pool.apply_async(_try_inherited, (image,)).get(timeout=60)
        assert said.startswith("this classifier was loaded before this process was forked")
        assert classifier.predict(image).label == expected, "the parent's is as it was"
    _inherited = None


def test_a_child_that_ends_like_any_program(calibrated: Bundle) -> None:
    """Through Python's own end, with every destructor, and after loading a bundle of its own."""
    script = f"""
import os, sys
from offramp import Bundle, DynamicClassifier
from offramp.errors import ClosedError
bundle = Bundle.open({str(calibrated.path)!r})
image = bundle.vectors().images[0]
first = DynamicClassifier.load(bundle, policy="last", threads=2, workers=2)
label = first.predict(image).label
child = os.fork()
if child == 0:
    try:
        first.predict(image)
    except ClosedError:
        first.close()
        del first
        with DynamicClassifier.load(bundle, policy="last", threads=2) as own:
            sys.exit(40 if own.predict(image).label == label else 41)
    sys.exit(42)
_, status = os.waitpid(child, 0)
assert first.predict(image).label == label
first.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (40, "")


def test_a_fork_while_others_predict(make_classifier: Callable[..., DynamicClassifier]) -> None:
    """The copies that were in use at the fork never come back in the child; nobody may wait."""
    fake = FakeRuntime(np.zeros((1, 1, 3)), stage_ms=(300,))
    classifier = make_classifier(fake)
    live = LiveClassifier(classifier)
    thread = threading.Thread(target=classifier.predict, args=(fake.image(0),))
    thread.start()
    child = os.fork()
    if child == 0:
        code = 0
        for use in (
            lambda: classifier.predict(fake.image(0)),
            lambda: live.submit(fake.image(0), 1),
            live.latest,
        ):
            try:
                use()
                code = 1
            except ClosedError as error:
                code |= 2 * ("forked" not in str(error))
        classifier.close()
        live.close()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    thread.join()
    live.close()
    assert classifier.predict(fake.image(0)).index == 0
