"""A training by two real processes on the CPU is the training of one: batch, loss and weights.

What the processes do is in `processes.py`.
"""

import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from copies import Copy
from medsoft_nb.core.files import sha256
from medsoft_nb.phantom.benchmarks import make_benchmark
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.trains]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('processes')
    make_benchmark('phantom-tumour', folder / 'data', n_healthy=4, n_diseased=6, per_patient=1)
    code = Path(__file__).with_name('processes.py').read_text()
    done = Copy(code, folder, MEDSOFT_BF16='0')
    error = done.communicate()[1]
    assert done.returncode == 0, error
    return folder


def ended(folder, name):
    return json.loads((folder / 'ended.json').read_text())[name]


def logs(folder, name):
    return '\n'.join(path.read_text() for path in sorted(folder.glob(f'{name}-?.log')))


def weights(out):
    return {path.relative_to(out).as_posix(): load_file(path) for path in sorted(out.rglob('*.safetensors'))}


def hashes(out):
    return {path.relative_to(out).as_posix(): sha256(path) for path in sorted(out.rglob('*.safetensors'))}


def losses(out):
    return pd.read_csv(out / 'loss.csv')


@pytest.mark.parametrize('one, several', [('lora-one', 'lora-two'), ('2b-one', 'parts')])
def test_two_processes_learn_what_one_learns(folder, one, several):
    assert ended(folder, one) == [0] and ended(folder, several) == [0, 0], logs(folder, several)
    table = losses(folder / several)
    assert list(table.step) == [1, 2, 3, 4]
    np.testing.assert_allclose(table.loss, losses(folder / one).loss, rtol=1e-4)
    ours, theirs = weights(folder / several), weights(folder / one)
    assert set(ours) == set(theirs) and ours
    for file, tensors in theirs.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(ours[file][name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m: f'{name}: {m}')


def test_one_of_two_is_killed_and_the_same_start_goes_on(folder):
    assert -9 in ended(folder, 'killed') and ended(folder, 'kept')
    assert ended(folder, 'again') == [0, 0], logs(folder, 'again')
    assert hashes(folder / 'again') == hashes(folder / 'lora-two')
    pd.testing.assert_frame_equal(losses(folder / 'again'), losses(folder / 'lora-two'))


def test_only_the_first_process_writes(folder):
    "What the folder of two holds, that of one holds too, and nothing is left of the way"
    for several, one in [('lora-two', 'lora-one'), ('again', 'lora-one'), ('parts', '2b-one')]:
        names = [sorted(p.relative_to(folder / n).as_posix() for p in (folder / n).rglob('*')) for n in (several, one)]
        assert names[0] == names[1] and 'cache' not in names[0] and 'state.pt' not in names[0]


def test_a_batch_that_cannot_be_shared_is_refused(folder):
    assert ended(folder, 'uneven') == [1, 1]
    assert (
        logs(folder, 'uneven').count('`batch_size` is 3, which 2 processes cannot share: take a multiple of 2.') == 2
    )


def test_a_launcher_starts_the_command(folder):
    "`torchrun -m medsoft_nb train`"
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m']
    words = ['train', folder / 'data/manifest.csv', '--steps', 1, '--batch-size', 2, '--rank', 2, '--roi', 32]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MEDSOFT_PROGRESS': '0', 'MEDSOFT_DEVICE': 'cpu'}
    words = [*launcher, 'medsoft_nb', *map(str, words), '--out', str(folder / 'launched')]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(folder / 'launched')) == 1 and done.stdout.count('Weights: ') == 1
