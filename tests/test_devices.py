"""Everything that computes, on an accelerator that is pretended (see `pretend`): nothing is left behind on the CPU.

A whole experiment runs there in `test_own_disease`.
"""

from pathlib import Path
import pytest
from pretend import start

pytestmark = [pytest.mark.slow, pytest.mark.trains]


def test_everything_runs_there(tmp_path):
    file, own = Path(__file__).with_name('on_pretend.py'), f'--basetemp={tmp_path / "own"}'
    code, text = start(tmp_path, '-m', 'pytest', '-q', '-x', '--noconftest', '-p', 'no:cacheprovider', own, str(file))
    assert code == 0, text[-6000:]
