"""Odd input to every command that reads: one sentence, status not 0, and nothing written."""

import os
import pytest
from command import medsoft
from medsoft_nb.models.base import save_base
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.phantom.benchmarks import make_benchmark


def fill(folder):
    "A folder with every kind of odd thing"
    m = make_benchmark('phantom-tumour', folder / 'data', n_healthy=3, n_diseased=3, seed=0)
    picture = folder / 'data' / m.df.image.iloc[0]
    (folder / 'other').mkdir()
    (folder / 'other/notes.txt').write_text('mine')
    (folder / 'picture.csv').write_bytes(picture.read_bytes())
    (folder / 'empty.csv').write_bytes(b'')
    (folder / 'header.csv').write_text('image_id,patient_id,image,label\n')
    (folder / 'list.yml').write_text('- 1\n- 2\n')
    (folder / 'number.yml').write_text('5\n')
    (folder / 'broken.yml').write_text('a: [1\n')
    (folder / 'gone.csv').symlink_to(folder / 'nowhere.csv')
    (folder / 'cycle').symlink_to(folder / 'cycle')
    (folder / 'broken').symlink_to(folder / 'nowhere')
    (folder / 'folder.csv').mkdir()
    save_base(tiny_components(0), folder / 'base')
    return folder


def content(folder):
    "Every path below a folder, and what is in it"
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob('*'))}


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    "The folder in which the commands run"
    here, before = fill(tmp_path_factory.mktemp('inputs')), os.getcwd()
    os.chdir(here)
    yield here
    os.chdir(before)


ODD = [
    '',
    'none',
    'gone.csv',
    'cycle',
    'a' * 300,
    'a\nb',
    'a\0b',
    'picture.csv',
    'empty.csv',
    'header.csv',
    'folder.csv',
]
ODD += ['picture.csv/below', 'other', 'list.yml']
TRAIN = ['data/manifest.csv', '--base', 'base', '--steps', 1, '--out', 'made']
IMPORT = ['data/images', '--kind', 'table', '--out', 'made']
GIVEN = {
    'train': ['INPUT', '--base', 'base', '--steps', 1, '--out', 'made'],
    'classify': ['INPUT', '--out', 'made'],
    'classify --synthetic': ['data/manifest.csv', '--synthetic', 'a=INPUT', '--out', 'made'],
    'evaluate': ['a=INPUT', '--reference', 'data/manifest.csv', '--out', 'made'],
    'evaluate --reference': ['a=data/manifest.csv', '--reference', 'INPUT', '--out', 'made'],
    'export': ['INPUT', '--out', 'made'],
    'export --train': ['data/manifest.csv', '--train', 'INPUT', '--out', 'made'],
    'data check': ['INPUT'],
    'data import': ['INPUT', '--out', 'made'],
    'data split': ['INPUT', '--out', 'made.csv'],
    'data validate': ['INPUT'],
    'verify': ['INPUT'],
    'replay': ['INPUT'],
    'replay --manifest': ['x', '--manifest', 'INPUT'],
    'reproduce --manifest': ['--manifest', 'INPUT', '--out', 'made'],
    'reproduce --profile': ['--profile', 'INPUT', '--out', 'made'],
    'train --base': ['data/manifest.csv', '--base', 'INPUT', '--out', 'made', '--steps', 1],
    'train --controller': [*TRAIN, '--stage', '2a', '--controller', 'INPUT'],
    'train --encoder': [*TRAIN, '--stage', '1a', '--encoder', 'INPUT'],
    'train --lora': [*TRAIN, '--lora', 'INPUT'],
    'export --membership': ['data/manifest.csv', '--membership', 'INPUT', '--out', 'made'],
    'membership': ['INPUT', '--lora', 'base', '--out', 'made'],
    'export --held-out': ['data/manifest.csv', '--train', 'data/manifest.csv', '--held-out', 'INPUT', '--out', 'made'],
    'data import --masks': [*IMPORT, '--table', 'data/manifest.csv', '--masks', 'INPUT'],
    'data import --lesion-masks': [*IMPORT, '--table', 'data/manifest.csv', '--lesion-masks', 'INPUT'],
    'data import --table': [*IMPORT, '--table', 'INPUT'],
    'evaluate --train': ['a=data/manifest.csv', *'--reference data/manifest.csv --train INPUT --out made'.split()],
    'generate --base': ['data/manifest.csv', '--base', 'INPUT', '--out', 'made', '-n', 1, '--steps', 1],
    'generate --lora': ['data/manifest.csv', '--lora', 'INPUT', '--out', 'made', '-n', 1, '--steps', 1],
}


@pytest.mark.parametrize('name', GIVEN)
def test_odd_input_is_one_sentence(here, name):
    before = content(here)
    command = name.split(' --')[0].split()
    wrong = []
    for odd in ODD:
        words = [str(word).replace('INPUT', odd) for word in GIVEN[name]]
        code, text = medsoft(*command, *words)
        lines = text.strip().splitlines()
        listed = name == 'data check' or name.endswith('masks')  # a table, or a fault an image
        sentence = bool(lines) and (listed or len(lines) <= 3)
        if code not in (1, 2) or not sentence or 'Traceback' in text or 'Errno' in text:
            wrong.append((odd[:20], code, text[-400:]))
        assert content(here) == before, (odd[:20], text)
    assert not wrong, '\n'.join(map(str, wrong))


@pytest.mark.parametrize(
    'command', ['classify', 'export', 'train', 'generate', 'data import', 'reproduce', 'data split']
)
def test_an_output_that_is_a_cyclic_link_is_refused(here, command):
    before = content(here)
    words = ['--manifest', 'data/manifest.csv'] if command == 'reproduce' else ['data/manifest.csv']
    for out in ('cycle', 'cycle/below'):
        code, text = medsoft(*command.split(), *words, '--out', out)
        assert code == 2 and 'is a link that leads to itself. Name another.' in ' '.join(text.split()), text
        assert content(here) == before


OUTPUTS = {
    'classify': ['data/manifest.csv'],
    'evaluate': ['a=data/manifest.csv', '--reference', 'data/manifest.csv'],
    'export': ['data/manifest.csv'],
    'train': ['data/manifest.csv', '--base', 'base', '--steps', 1],
    'reproduce': ['--manifest', 'data/manifest.csv'],
    'data split': ['data/manifest.csv'],
    'data matched': ['data/manifest.csv'],
}


NEW = {'train --cache': [*TRAIN, '--cache'], 'export --salt': ['data/manifest.csv', '--out', 'made', '--salt']}


@pytest.mark.parametrize('name', NEW)
def test_an_odd_place_that_is_made_where_it_is_not_there_is_one_sentence(here, name):
    before = content(here)
    for odd in ('', 'broken', 'cycle', 'a' * 300, 'a\0b', 'picture.csv', 'header.csv', 'picture.csv/below'):
        code, text = medsoft(name.split()[0], *NEW[name], odd)
        assert code == 2 and len(text.strip().splitlines()) == 1 and 'Errno' not in text, text
        assert content(here) == before


def test_a_generator_that_learned_from_no_lesion_is_told(here):
    words = ['a=data/manifest.csv', '--reference', 'data/manifest.csv', '--train', 'header.csv', '--out', 'made']
    code, text = medsoft('evaluate', *words)
    assert code == 2 and 'header.csv has no diseased images' in ' '.join(text.split()), text


@pytest.mark.parametrize('command', OUTPUTS)
def test_an_odd_output_is_one_sentence(here, command):
    before, table = content(here), command.startswith('data ')
    odd = {'broken': 'a link that leads nowhere', 'broken/new.csv': 'a link that leads nowhere'}
    odd |= {'/dev/null': 'no file and no folder', 'header.csv/new.csv': 'lies below the file'}
    odd |= {'folder.csv': 'a folder. Name a file'} if table else {'data/manifest.csv': 'a file. Name a folder'}
    odd |= {'data/manifest.csv': 'the manifest itself'} if command == 'data matched' else {}
    if os.geteuid():  # root may write everywhere
        (here / 'other').chmod(0o500)
        odd['other/new.csv'] = 'may not be written'
    for out, said in odd.items():
        code, text = medsoft(*command.split(), *OUTPUTS[command], '--out', out)
        assert code == 2 and said in ' '.join(text.split()), (out, text)
        assert len(text.strip().splitlines()) == 1 and content(here) == before, (out, text)
    (here / 'other').chmod(0o700)


@pytest.mark.parametrize('command', ['classify', 'export', 'train', 'generate'])
@pytest.mark.parametrize('name', ['list.yml', 'number.yml', 'broken.yml', 'picture.csv', 'gone.csv', 'cycle'])
def test_a_knowledge_base_of_another_kind_is_one_sentence(here, command, name):
    before = content(here)
    code, text = medsoft(command, 'data/manifest.csv', '--out', 'made', '--knowledge', name)
    assert code == 2 and len(text.splitlines()) == 1 and 'Traceback' not in text, text
    assert content(here) == before
