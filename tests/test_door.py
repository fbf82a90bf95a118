"""What a command refuses it refuses before it loads weights, and before anything is written.

Every case here is a slip of somebody who uses the command line for the first time.
"""

import json, subprocess, sys
from pathlib import Path
from typing import get_args, get_type_hints
import pytest, torch, typer
from command import medsoft
from safetensors.torch import save_file
import medsoft_nb.training.trainer  # whose names the patches below must not reach
from medsoft_nb.apps.options import app
from medsoft_nb.core.files import folder_lock
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.models.base import save_base
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.running.settings import (
    ClassifySettings,
    FinetuneSettings,
    GenerateSettings,
    PrepareSettings,
    QualitySettings,
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Phantoms, and a base of random weights"
    folder = tmp_path_factory.mktemp('door')
    make_benchmark('phantom-tumour', folder / 'data', n_healthy=3, n_diseased=3, seed=0)
    save_base(tiny_components(0), folder / 'base')
    (folder / 'own.yml').write_text('organ: vertebra\ndiseases:\n  spot: bright spot\n')
    return folder


def content(folder):
    "Every file below a folder, and what is in it"
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def changed(folder, **columns):
    "The manifest of the phantoms with other columns"
    m = Manifest.load(folder / 'data/manifest.csv')
    return Manifest(m.df.assign(**columns), m.root).save(folder / 'data/changed.csv')


@pytest.fixture
def no_weights(monkeypatch):
    "A base cannot be loaded"

    def load(*words, **options):
        raise AssertionError('weights are loaded')

    monkeypatch.setattr('medsoft_nb.models.base.load_base', load)
    monkeypatch.setattr(MedSoftPipeline, 'from_pretrained', load)


DATA = {
    'an image that is gone': (dict(image='images/none.png'), 'none.png'),
    'no structures': (dict(structures=''), 'has no `structures`'),
    'no lesions': (dict(lesion_mask=''), '`lesion_mask`'),
    'one label': (dict(label='healthy', lesion_mask=''), ''),
    'no training images': (dict(split='test'), ''),
}
WITHOUT = [name for name in DATA if name not in ('no structures', 'no training images')]  # what a training needs, too


@pytest.mark.parametrize(
    'command, fault', [*(('generate', name) for name in DATA), *(('train', name) for name in WITHOUT)]
)
def test_data_are_checked_before_weights_are_loaded(folder, no_weights, command, fault):
    columns, sentence = DATA[fault]
    code, text = medsoft(command, changed(folder, **columns), '--base', folder / 'base', '--out', folder / 'made')
    assert code == 2 and sentence in text and 'Traceback' not in text, text
    assert not (folder / 'made').exists()


WITHOUT_TORCH = {
    'train --out data': 'is not empty (it holds',
    'generate --out data': 'is not empty (it holds',
    'train --out taken': 'Another process is at work in taken',
    'generate --out taken': 'Another process is at work in taken',
    'train --stage 3': "`stage` is '3'",
    'train --stage 2a': 'give --controller',
    'train --stage 1a --min-snr 5': '`min_snr` is 5.0, but stage 1a does not use it',
    'train --controller-rate 0.01': '`controller_rate` is 0.01, but stage lora does not use it',
    'train --controller medsoft-tiny': "no use for a `controller`",
    'train --rank 2000': '--rank is',
    'train --rank 8 --lora lora.safetensors': 'is of rank 4, `rank` is 8',
    'train --lora none.safetensors': 'none.safetensors does not exist',
    'generate --lora none.safetensors': 'none.safetensors does not exist',
    'generate --unet data': 'data holds no U-Net',
    'generate --labels gout': "no donor has the label 'gout'",
    'generate --faithful nope': "unknown faithful switch 'nope'",
    'generate --shard 3/2': '`shard` is 3/2',
    'studio --lora none.safetensors': 'none.safetensors does not exist',
}


def test_errors_that_need_no_model_come_before_torch(folder):
    "In a process of its own: importing torch and the models takes longer than all the rest"
    save_file({'unet.a.lora_A.weight': torch.ones(4, 8)}, folder / 'lora.safetensors')
    (folder / 'taken').mkdir(exist_ok=True)
    words = [
        command.split()
        + ['data/manifest.csv'] * (not command.startswith('studio'))
        + ['--out', 'made'] * ('--out' not in command)
        for command in WITHOUT_TORCH
    ]
    with folder_lock(folder / 'taken'):
        done = subprocess.run(
            [sys.executable, '-c', REFUSED, json.dumps(words)], cwd=folder, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    for (command, sentence), (code, text, loaded) in zip(WITHOUT_TORCH.items(), json.loads(done.stdout)):
        assert code == 2 and sentence in ' '.join(text.split()), (command, text)
        assert not loaded, (command, loaded)


REFUSED = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from command import medsoft
heavy = 'torch', 'diffusers', 'transformers', 'peft'
said = [(*medsoft(*words), [name for name in heavy if name in sys.modules]) for words in json.loads(sys.argv[1])]
print(json.dumps(said))
"""

REFUSALS = {
    'a disease whose form nobody knows': ['--labels', 'spot', '--mask-source', 'knowledge', '--knowledge', 'own.yml'],
    'a window that is too small': ['--roi', 1],
    'a part of nothing': ['--shard', '9/9'],
    'more images than a disk holds': ['-n', 10**11],
    'an unknown flaw': ['--faithful', 'nope'],
    'a label without lesions': ['--labels', 'fracture'],
    'a controller that is not there': ['--controller', 'nope'],
}


@pytest.mark.parametrize('words', REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize('there', [False, True])
def test_a_refused_batch_leaves_nothing(folder, tmp_path, words, there, monkeypatch):
    monkeypatch.chdir(folder)
    out = tmp_path / 'made'
    if there:
        out.mkdir()
    code, text = medsoft('generate', 'data/manifest.csv', '--base', 'base', '--steps', 1, '--out', out, *words)
    assert code == 2 and 'Traceback' not in text, text
    assert list(out.iterdir()) == [] if there else not out.exists()


@pytest.mark.parametrize(
    'shard, fails, there',
    [
        ('1/1', 'generate.note_rows', False),
        ('2/2', 'generate.paint_lesions', False),
        ('1/2', 'generate.note_rows', True),
    ],
)
def test_a_batch_that_fails_before_its_first_image_leaves_nothing(folder, tmp_path, monkeypatch, shard, fails, there):
    monkeypatch.setattr('medsoft_nb.painting.generate.paint_lesions', lambda *words: [None] * 20)
    monkeypatch.setattr('medsoft_nb.painting.generate.write_sample', lambda *words, **more: {})
    monkeypatch.setattr(f'medsoft_nb.painting.{fails}', lambda *words, **more: 1 / 0)
    out = tmp_path / 'made'
    if there:
        out.mkdir()
    with pytest.raises(ZeroDivisionError):
        medsoft(
            *('generate', folder / 'data/manifest.csv', '--base', folder / 'base', '--out', out, '--shard', shard),
            *('-n', 10, '--batch-size', 5),
        )
    assert list(out.iterdir()) == [] if there else not out.exists()


OUTPUTS = {
    'generate': ['--base', 'base', '--steps', 1, '-n', 1],
    'train': ['--base', 'base', '--steps', 1],
    'export': [],
    'data implant': ['--labels', 'lytic'],
}


@pytest.mark.parametrize('command', OUTPUTS)
@pytest.mark.parametrize('name', ['notes.txt', 'settings.json', 'manifest.csv'])
def test_a_folder_with_other_files_is_left_alone(folder, no_weights, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(folder)
    (tmp_path / name).write_text('{"mine": true}')
    before = content(tmp_path)
    code, text = medsoft(*command.split(), 'data/manifest.csv', *OUTPUTS[command], '--out', tmp_path)
    assert code == 2 and f"is not empty (it holds '{name}')" in text, text
    assert content(tmp_path) == before


def test_an_earlier_batch_is_gone_on_with(folder, tmp_path):
    given = ['generate', folder / 'data/manifest.csv', '--base', folder / 'base', '--steps', 1, '--out', tmp_path]
    given += ['--labels', 'lytic', '-n', 1, '--roi', 32]
    assert medsoft(*given)[0] == 0
    before = content(tmp_path)
    assert medsoft(*given)[0] == 0 and content(tmp_path) == before
    code, text = medsoft(*given, '--guidance-scale', 3)
    assert code == 2 and 'made with other settings' in text and content(tmp_path) == before


def test_synthetic_images_are_checked_before_a_classifier_is_trained(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('medsoft_nb.evaluation.classify.Classifier.fit', lambda *words: 1 / 0)
    m = Manifest.load(folder / 'data/manifest.csv')
    label = ['healthy'] * 3 + ['lytic'] * 3
    df = m.df.sort_values('lesion_mask').assign(label=label, split=['train', 'train', 'test'] * 2)
    real = Manifest(df, m.root).save(folder / 'data/split.csv')
    broken = changed(folder, image='images/none.png')
    code, text = medsoft('classify', real, '--synthetic', f'soft={broken}', '--out', tmp_path / 'tables')
    assert code == 2 and 'none.png' in text and not (tmp_path / 'tables').exists(), text


def options(group, words=()):
    "Each command of a group of commands, and what it takes"
    for command in group.registered_commands:
        name = command.name or command.callback.__name__
        for option, hint in get_type_hints(command.callback, include_extras=True).items():
            yield (*words, name), option, hint
    for below in group.registered_groups:
        yield from options(below.typer_instance, (*words, below.name))


def numbers():
    "Each option that is a number: its command, its flag, its words in an error"
    found = {}
    for words, option, hint in options(app):
        kinds = {*get_args(get_args(hint)[0]), *get_args(hint)[:1]} if get_args(hint) else {hint}
        if kinds & {int, float}:
            found[' '.join(words), f'--{option.replace("_", "-")}'] = kinds
    return found


def test_numbers_of_all_commands_have_a_range(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '1000')
    monkeypatch.setattr('medsoft_nb.apps.cli.app', typer.main.get_command(app))  # made once
    found = numbers()
    assert len(found) > 40 and {command for command, _ in found} > {'train', 'generate', 'classify', 'data split'}
    for (command, flag), kinds in found.items():
        for word in ('nan', 'inf', '-1e9', '1e18', str(10**18)):
            code, text = medsoft(*command.split(), *COMMANDS.get(command, ['m.csv']), f'{flag}={word}')
            kind = 'a number' if float in kinds else 'a whole number'
            assert code == 2 and text.startswith(f'Error: {flag} is {word!r}; give {kind} from '), (command, text)
            assert len(text.splitlines()) == 1, text
    assert list(tmp_path.iterdir()) == []


def test_settings_have_no_number_without_end():
    for model in (FinetuneSettings, GenerateSettings, ClassifySettings, PrepareSettings, QualitySettings):
        for name, field in model.model_fields.items():
            if {int, float} & {field.annotation, *get_args(field.annotation)}:
                for word in (float('nan'), float('inf'), 1e18, 10**18, '1e18'):
                    with pytest.raises(ValueError, match=f'`{name}` is '):
                        model(**{name: word})


COMMANDS = {
    'train': ['m.csv'],
    'generate': ['m.csv'],
    'evaluate': ['a=m.csv', '--reference', 'm.csv'],
    'classify': ['m.csv'],
    'export': ['m.csv'],
    'data import': ['m'],
    'data phantom': ['phantom-tumour'],
    'data implant': ['m.csv', '--labels', 'lytic'],
    'data split': ['m.csv'],
    'reproduce': [],
    'studio': [],
    'docs': [],
}
PATHS = {
    'notes.txt/out': "is 'notes.txt/out', which lies below the file",
    'a' * 300: 'has 300 bytes, and 255 are possible. Shorten it.',
    'a\0b': "'a\\x00b' holds a NUL character",
    '': "is empty: ''",
    'notes.txt': "is 'notes.txt', which is a file. Name a folder.",
}


def refused(sentence, *words):
    "One sentence with status 2, on one line or more, and nothing of the system's own words"
    code, text = medsoft(*words)
    assert code == 2 and sentence in ' '.join(text.split()), text
    assert 'Errno' not in text and 'Traceback' not in text


@pytest.mark.parametrize('command', COMMANDS)
def test_an_output_that_cannot_be_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'notes.txt').write_text('mine')
    for path, sentence in PATHS.items():
        if command != 'data split' or path != 'notes.txt':
            refused(sentence, *command.split(), *COMMANDS[command], '--out', path)
    monkeypatch.setattr('os.access', lambda path, mode: False)
    refused('may not be written. Choose another place.', *command.split(), *COMMANDS[command], '--out', 'made')
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize('command', [name for name in COMMANDS if name.split()[0] not in ('data', 'docs')])
def test_a_knowledge_base_that_cannot_be_read_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'notes.txt').write_text('mine')
    given = [*command.split(), *COMMANDS[command], '--out', 'made', '--knowledge']
    refused("--knowledge is '.', which is a folder. Name a file.", *given, '.')
    refused("--knowledge is empty: ''", *given, '')
    refused("knowledge base 'none.yml' cannot be read: No such file or directory", *given, 'none.yml')
    refused('lies below the file', *given, 'notes.txt/own.yml')
    monkeypatch.setattr('os.access', lambda path, mode: False)
    refused('may not be read. Get the right to, or name another.', *given, 'notes.txt')


@pytest.mark.parametrize('option', ['--json', '--page'])
def test_a_file_to_write_that_cannot_be_is_refused(folder, option):
    suffix = '.json' if option == '--json' else '.html'
    given, notes = ['data', 'check', folder / 'data/manifest.csv', option], folder / 'own.yml'
    refused('lies below the file', *given, notes / f'check{suffix}')
    refused('name a file that ends with', *given, folder)
    refused('Shorten it', *given, folder / f'{"a" * 260}{suffix}')


def test_what_the_system_refuses_late_is_a_sentence(folder, tmp_path, monkeypatch):
    "A place that shows only when it is written that it takes no file"

    def full(*words):
        raise OSError(28, 'No space left on device', *words[:1])

    monkeypatch.setattr('os.replace', full)
    target = tmp_path / 'check.json'
    refused(f'the disk of {target} is full: ', 'data', 'check', folder / 'data/manifest.csv', '--json', target)
    assert list(tmp_path.iterdir()) == []


FEW = {
    1: 'has 1 patient; a split into train, val and test needs 3 or more of each label. Add patients',
    2: 'has 2 patients; a split into train, val and test needs 3 or more of each label. Add patients, or leave the '
    'label out. Two are enough without val: `--fractions 0.5,0,0.5`.',
}


@pytest.fixture(scope='module')
def twelve(tmp_path_factory):
    "Six patients of each class, an image each"
    return make_benchmark('phantom-fracture', tmp_path_factory.mktemp('few'), 6, 6, per_patient=1, seed=0)


@pytest.mark.parametrize('n', [1, 2, 3, 4, 6])
def test_advice_does_not_go_in_a_circle(folder, twelve, tmp_path, n):
    "What advises a split says how many patients it needs, and what a split refuses can be followed"
    rows = twelve.df.groupby('label').head(n)
    path = Manifest(rows, twelve.root).save(tmp_path / 'manifest.csv')
    code, text = medsoft('data', 'validate', path)
    assert code == 0 and ('It needs 3 of each label: too few have' in text) == (n < 3), text
    code, text = medsoft('data', 'split', path)
    given = ['--train', path, '--out', tmp_path / 'share']
    if n < 3:
        assert code == 2 and FEW[n] in ' '.join(text.split()), text
        code, text = medsoft('export', path, *given)
        assert code == 2 and 'from 3 patients of each label on' in text and '--held-out' in text, text
        code, text = medsoft('classify', path, '--out', tmp_path / 'tables')
        assert code == 2 and '3 patients of each label' in text, text
        if n == 1:
            return
        assert medsoft('data', 'split', path, '--fractions', '0.5,0,0.5')[0] == 0
    split = Manifest.load(path)
    assert (split.df.groupby(['label', 'split']).size() > 0).sum() == 2 * min(n, 3)
    code, text = medsoft('export', split.where(split='train').save(tmp_path / 'made.csv'), '--outside', *given)
    assert 'split' not in text, text
    code, text = medsoft('reproduce', '--manifest', path, '--out', tmp_path / 'run', '--dry-run')
    assert code == 2 and 'Set it between 1 and' in text, text
