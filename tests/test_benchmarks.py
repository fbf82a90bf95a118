"Benchmarks still run, at their smallest: those against diffusers, and a base of another shape."

import json
from argparse import Namespace
from importlib import import_module
from pathlib import Path
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.trains]

WORDS = {
    'training': '--roi 32 --steps 2 --images 4 --batch 2',
    'painting': '--only whole region --rounds 1 --steps 1 --batches 1',
}


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / 'benchmarks')


@pytest.mark.parametrize('name', WORDS)
def test_a_benchmark_prints_a_full_table(name, monkeypatch, capsys):
    for variable in ('MEDSOFT_PROGRESS', 'MEDSOFT_BF16'):
        monkeypatch.setenv(variable, '0')  # as benchmarks set them; they are what they were afterwards
    import_module(name).main(WORDS[name].split())
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert len(table) > 2 and all(cell.strip() for line in table for cell in line[1:-1].split('|'))
    assert 'nan' not in '\n'.join(table)


def test_a_base_of_another_shape_trains_and_paints(tmp_path, capsys):
    shapes = import_module('shapes')
    shapes.prepare(shapes.SHAPES['tiny'], tmp_path)
    jobs = ('adapt', '2b', 'paint')
    for job in jobs:
        shapes.run_job(job, Namespace(shape='tiny', folder=tmp_path, dtype='float32', side=128))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{')]
    assert [row['job'] for row in rows] == list(jobs) and all(row['peak_gib'] > 0 for row in rows)
