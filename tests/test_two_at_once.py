"Two processes at one folder: the second waits or is refused, and nothing is lost"

import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch
from copies import Copy, MEDSOFT
from medsoft_nb.apps.cli import main
from medsoft_nb.apps.studio import StudioSession
from medsoft_nb.apps.variants import StudioSettings
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.phantom.benchmarks import make_benchmark

HOLD = """
import sys, time
from pathlib import Path
from medsoft_nb.core.files import folder_lock
with folder_lock(sys.argv[1]):
    print('held', flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1], '.released').touch()
"""


@pytest.fixture(scope='module')
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp('phantoms') / 'ph'
    make_benchmark('phantom-tumour', folder, n_healthy=4, n_diseased=3)
    return folder


def hold(folder, seconds):
    "Another process, which is at work in a folder"
    command = [sys.executable, '-c', HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    return process


def content(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob('*') if path.is_file() and path.name != '.lock'}


COMMANDS = {
    'train': ['train', '{data}/manifest.csv', '--steps', '1', '--batch-size', '1', '--rank', '2'],
    'generate': ['generate', '{data}/manifest.csv', '-n', '1', '--steps', '1'],
    'import': ['data', 'import', '{data}', '--table', '{data}/manifest.csv'],
    'implant': ['data', 'implant', '{data}/manifest.csv', '--labels', 'lytic'],
    'export': ['export', '{data}/manifest.csv'],
    'reproduce': ['reproduce'],
}


@pytest.mark.parametrize('name', COMMANDS)
def test_the_second_is_refused_before_it_begins(name, benchmark, tmp_path, capsys):
    out = tmp_path / 'out'
    words = [word.format(data=benchmark) for word in COMMANDS[name]]
    first = hold(out, 600)
    try:
        before = content(out)
        with pytest.raises(SystemExit) as end:
            main([*words, '--out', str(out)])
    finally:
        first.kill()
        first.wait()
    assert end.value.code == 2
    assert f'Another process is at work in {out}' in capsys.readouterr().err.replace('\n', '')
    assert content(out) == before


def test_two_studios_keep_into_one_manifest(benchmark, tmp_path):
    "The second one waits while the first one writes, and takes a name of its own"
    sessions = [StudioSession(Manifest.load(benchmark / 'manifest.csv'), out=tmp_path) for _ in range(2)]
    for seed, session in enumerate(sessions):
        session.settings = StudioSettings(steps=1, seed=seed)
        y, x = (int(v.mean()) for v in (session.structures == 3).nonzero())
        session.place(x, y)
    variants = [session.generate()[0] for session in sessions]
    sessions[0].keep(variants[0])
    other = hold(tmp_path, 1)
    sessions[1].keep(variants[1])
    assert (tmp_path / '.released').exists()  # it waited for the other process
    other.wait()
    kept = Manifest.load(tmp_path / 'manifest.csv')
    assert list(kept.df.image_id) == [variants[0].kept, variants[1].kept]
    assert len(set(kept.df.sha256)) == 2


def test_a_foreign_manifest_is_left_alone(benchmark, tmp_path, capsys):
    "A folder that something else has filled gets no synthetic images among its own"
    before = content(benchmark)
    with pytest.raises(SystemExit) as end:
        main(['generate', str(benchmark / 'manifest.csv'), '-n', '1', '--steps', '1', '--out', str(benchmark)])
    assert end.value.code == 2
    assert 'exists and is not empty' in capsys.readouterr().err.replace('\n', ' ')
    assert content(benchmark) == before


def test_processes_share_a_batch(benchmark, tmp_path):
    "Each paints its part, both at the same time; the batch is that of one process, bit for bit"
    words = [
        'generate',
        str(benchmark / 'manifest.csv'),
        '-n',
        '2',
        '--steps',
        '1',
        '--roi',
        '64',
        '--batch-size',
        '2',
    ]
    shared = tmp_path / 'shared'
    threads = torch.get_num_threads()  # as many as here: sums depend on their number
    parts = [Copy(MEDSOFT, *words, '--shard', f'{k}/2', '--out', shared, threads=threads) for k in (1, 2)]
    errors = [part.communicate()[1] for part in parts]
    assert [part.returncode for part in parts] == [0, 0], errors
    with pytest.raises(SystemExit) as end:
        main([*words, '--out', str(tmp_path / 'whole')])
    assert end.value.code in (0, None)
    tables = [(tmp_path / name / 'manifest.csv').read_bytes() for name in ('shared', 'whole')]
    assert tables[0] == tables[1] and not (tmp_path / 'shared/shards').exists()


def test_a_shard_that_fails_leaves_the_settings_of_one_that_begins(tmp_path, monkeypatch):
    "The second shard begins in the moment in which the first one tidies up"
    from medsoft_nb.painting import rows
    from medsoft_nb.painting.provenance import open_folder

    remove, out, begun = rows._remove_start, tmp_path / 'batch', []

    def begin():
        with rows.batch_lock(out, (2, 2)):
            open_folder(out, dict(n_per_label=1), 1, 1, (2, 2))
            (out / 'settings.json').read_text()

    def slowly(folder):
        begun.append(Thread(target=begin))
        begun[0].start()
        begun[0].join(0.5)  # time enough to write them, were it not made to wait
        remove(folder)

    monkeypatch.setattr(rows, '_remove_start', slowly)
    with pytest.raises(KeyError), rows.batch_lock(out, (1, 2)):
        open_folder(out, dict(n_per_label=1), 1, 1, (1, 2))
        raise KeyError
    begun[0].join()
    assert (out / 'settings.json').is_file()
