"Everything that computes, on an accelerator that is pretended (see `pretend`): nothing is left behind on the CPU."

import os, subprocess, sys
from pathlib import Path
import pandas as pd, pytest
import pretend
from medsoft_nb.core.files import read_json
from medsoft_nb.models.base import save_base
from medsoft_nb.models.tiny import tiny_components

pytestmark = [pytest.mark.slow, pytest.mark.trains]
PROFILE = '''
seeds: [0]
arms: [lora-smis+msc]
prepare: {benchmark_healthy: 16, benchmark_diseased: 24, n_diseased: 6}
finetune: {base: BASE, steps: 1, batch_size: 2, msc_steps: 1}
generate: {base: BASE, n_per_label: 2, steps: 1, healthy: false}
quality: {namer_steps: 1, extractor: medsoft-tiny}
classify: {steps: 1, controls: [], healthy: false}
'''


def start(folder, *words):
    "Python in a process whose torch finds the accelerator"
    env = {**os.environ, **pretend.installed(folder / 'pretended'), 'MEDSOFT_PROGRESS': '0'}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_everything_runs_there(tmp_path):
    file = Path(__file__).with_name('on_pretend.py')
    code, text = start(tmp_path, '-m', 'pytest', '-q', '-x', '--noconftest', '-p', 'no:cacheprovider', str(file))
    assert code == 0, text[-6000:]


def test_a_whole_experiment_runs_there(tmp_path):
    save_base(tiny_components(0), tmp_path / 'base')
    (tmp_path / 'smallest.yml').write_text(PROFILE.replace('BASE', str(tmp_path / 'base')))
    command = 'from medsoft_nb.apps.cli import main; main()'
    code, text = start(tmp_path, '-c', command, 'reproduce', '--profile', 'smallest.yml', '--out', 'run')
    assert code == 0, text[-6000:]
    trained = read_json(tmp_path / 'run/seed-0/trained/lora-msc/training.json')
    assert trained['device']['device'].startswith('pretend')
    assert pd.read_csv(tmp_path / 'run/tables/auc.csv').value.notna().all()
    assert read_json(tmp_path / 'run/run.json')['device']['device'].startswith('pretend')
