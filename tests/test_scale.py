"The benchmark at Stable Diffusion's size, run at a tiny one: weights in Hub layout, loading, every stage, sampling."

import importlib.util
from pathlib import Path
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.trains]
spec = importlib.util.spec_from_file_location('scale', Path(__file__).parent.parent / 'benchmarks/scale.py')
scale = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scale)


def test_every_stage_and_sampling_run(tmp_path):
    small = ['--size', 'tiny', '--device', 'cpu', '--batch', '2', '--steps', '1', '--sampling-steps', '2']
    got = scale.main([*small, '--out', str(tmp_path / 'scale.json')])
    assert [r['job'] for r in got['rows']] == [
        'load',
        'stage lora',
        'stage 1a',
        'stage 1b',
        'stage 2a',
        'stage 2b',
        'sampling',
        'sampling with MSC',
    ]
    assert all(r['seconds'] > 0 for r in got['rows']) and (tmp_path / 'scale.json').exists()
