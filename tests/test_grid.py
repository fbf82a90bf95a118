"A run of the grid that is killed, and goes on."
import os, signal, subprocess, sys, time
import nbformat, pytest
from nbformat.v4 import new_code_cell, new_notebook

go = '''
import sys
from medsoft_nb.grid import Step, reproduce
steps = (Step('prepare', 'data', seeded=False), Step('draw', 'numbers', needs=('prepare',)), Step('report', 'tables', seeded=False, needs=('draw',)))
reproduce('profile.yml', 'run', notebooks='.', steps=steps)'''

books = {
    'prepare': ["run = '.'\nn = 1", "open('data/n.txt', 'w').write(str(n))"],
    'draw': ["run = '.'\nseed = 0", "import time; from pathlib import Path",   # a job that is slow, and resumes from its own files
        "folder = Path(f'seed-{seed}/numbers')\nfor i in range(10):\n    p = folder/f'{i}.txt'\n    if not p.exists(): time.sleep(.3); p.write_text(str(seed*100+i))"],
    'report': ["run = '.'\nseeds = []", "from pathlib import Path; print(sum(int(p.read_text()) for p in Path().glob('seed-*/numbers/*.txt')))"],
}


@pytest.fixture
def experiment(tmp_path):
    for name, cells in books.items():
        nb = new_notebook(cells=[new_code_cell(c) for c in cells], metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}})
        nb.cells[0].metadata.tags = ['parameters']
        nbformat.write(nb, tmp_path/f'{name}.ipynb')
    (tmp_path/'profile.yml').write_text('seeds: [0, 1]\nprepare: {n: 5}')
    return tmp_path


def start(folder): return subprocess.Popen([sys.executable, '-c', go], cwd=folder, env={**os.environ, 'MEDSOFT_PROGRESS': '0'}, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60):
    end = time.monotonic()+seconds
    while not condition():
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(.02)


def test_a_killed_run_goes_on_where_it_stopped(experiment):
    from medsoft_nb.core import read_json
    run, numbers = experiment/'run', experiment/'run/seed-0/numbers'
    first = start(experiment)
    wait_for(lambda: len(list(numbers.glob('*.txt'))) >= 3)
    first.send_signal(signal.SIGKILL); first.wait()
    assert sorted(p.name for p in (run/'notebooks').glob('[!.]*')) == ['prepare.ipynb'], 'a cut-off job looks done'
    written = {p.name: p.stat().st_mtime_ns for p in numbers.glob('*.txt')}

    again = start(experiment)
    _, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    jobs = {job['job']: job for job in read_json(run/'run.json')['results']['jobs']}
    assert jobs['prepare']['resumed'] and not jobs['seed-0/draw']['resumed']
    kept = {name: t for name, t in written.items() if (numbers/name).stat().st_mtime_ns == t}
    assert len(kept) >= 3, 'images that were there were made again'
    assert str(sum(range(10))+sum(range(100, 110))) in (run/'report.html').read_text()
    assert not list((run/'notebooks').glob('.*running*'))


def test_two_runs_do_not_share_a_folder(experiment):
    first = start(experiment)
    try:
        wait_for(lambda: (experiment/'run/data/job.json').exists())
        first.send_signal(signal.SIGSTOP)   # it holds the folder, however slow the second is
        second = start(experiment)
        _, error = second.communicate(timeout=60)
        assert second.returncode == 1 and 'Another process is at work' in error
    finally:
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=120)
    assert first.returncode == 0


def test_the_injected_value_is_used(experiment):
    start(experiment).communicate(timeout=120)
    assert (experiment/'run/data/n.txt').read_text() == '5'
