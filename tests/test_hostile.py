"""Hostile names, paths, links, tables, images and configurations: nothing outside is written or read, and the answer
is one sentence that quotes what is wrong."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import medsoft
from medsoft_nb.core.files import folder_lock
from medsoft_nb.core.images import write_image
from medsoft_nb.core.sums import changed_files
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.phantom.benchmarks import make_benchmark

SECRET = np.full((24, 24), 77, np.uint8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "A home of its own, so that no other test's manifests are remembered"
    monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'state'))
    monkeypatch.setenv('MEDSOFT_SALT', str(tmp_path / 'salt'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def outside(tmp_path):
    "A folder that nothing may touch, with an image that nobody may read"
    folder = tmp_path / 'outside'
    write_image(folder / 'secret.png', SECRET)
    (folder / 'keep.txt').write_text('keep')
    return folder


def untouched(outside):
    names = sorted(path.name for path in outside.rglob('*'))
    return names == ['keep.txt', 'secret.png'] and (outside / 'keep.txt').read_text() == 'keep'


def refused(words, *quoted):
    "The command ends with status 2 and a sentence; gives the text"
    code, text = medsoft(*words)
    plain = ' '.join(text.split())
    assert code == 2 and 'Error:' in text and 'Traceback' not in text, text
    for one in quoted:
        assert one.replace(' ', '') in plain.replace(' ', ''), text
    return plain


def table(folder, **columns):
    "A manifest of three images as others may write it"
    rows = dict(
        image_id=['a', 'b', 'c'], patient_id=['p', 'q', 'r'], image=['a.png', 'b.png', 'c.png'], label='healthy'
    )
    for k, name in enumerate('abc'):
        write_image(folder / f'{name}.png', np.random.default_rng(k).integers(0, 255, (24, 24), dtype=np.uint8))
    pd.DataFrame(rows | columns).to_csv(folder / 'manifest.csv', index=False)
    return folder / 'manifest.csv'


NAMES = {
    'up and down': 'x/../../../../outside/ESC',
    'up': '../../outside/ESC',
    'absolute': '/tmp/outside/ESC',
    'dots': '..',
    'one dot': '.',
    'windows up': '..\\..\\outside\\ESC',
    'windows drive': 'C:\\outside\\ESC',
    'device': 'CON',
    'device with an ending': 'nul.png',
    'a slash at the end': 'lytic/',
    'spaces and dots': ' . . ',
    'tilde': '~/ESC',
    'variable': '$HOME/ESC',
    'option': '--out=/outside',
    'dashes': '-rf',
    'pipe': 'a|b;c&d',
    'composed': 'e\u0301\u0301/..',
    'long': 'x' * 190,
}


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('column', ['label', 'image_id'])
def test_names_stay_inside(tmp_path, outside, name, column):
    path = table(tmp_path / 'deep/in', **{column: [NAMES[name], 'b', 'c']})
    deep = tmp_path / 'deep/down/out'
    code, text = medsoft('export', path, '--out', deep, '--format', 'imagefolder')
    assert code in (0, 2) and 'Traceback' not in text, text
    assert code == 0 or 'Error:' in text
    made = [p for p in tmp_path.rglob('*') if p.is_file() and not p.is_relative_to(tmp_path / 'deep')]
    assert {p.name for p in made} <= {'secret.png', 'keep.txt', 'salt'} and untouched(outside)
    for file in deep.rglob('*'):
        assert file.resolve().is_relative_to(deep) and len(file.name) < 256


PATHS = {
    'up': '../outside/secret.png',
    'absolute': '{outside}/secret.png',
    'windows up': '..\\outside\\secret.png',
    'a link': 'link.png',
    'a linked folder': 'linked/secret.png',
    'down and up': 'sub/../../outside/secret.png',
    'no image': '../../../../../../../../etc/passwd',
    'not there': '../outside/none.png',
}
READERS = {
    'validate': ('data', 'validate', '{m}'),
    'check': ('data', 'check', '{m}'),
    'implant': ('data', 'implant', '{m}', '--labels', 'lytic', '--out', 'o'),
    'export': ('export', '{m}', '--out', 'o'),
    'train': ('train', '{m}', '--out', 'o'),
    'generate': ('generate', '{m}', '--out', 'o'),
    'classify': ('classify', '{m}', '--out', 'o'),
    'reproduce': ('reproduce', '--manifest', '{m}', '--out', 'o', '--dry-run'),
    'studio': ('studio', '{m}', '--out', 'o'),
}


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('command', READERS)
def test_images_from_outside_are_not_read(tmp_path, outside, command, path):
    file = PATHS[path].format(outside=outside)
    m = table(tmp_path / 'in', image=['a.png', 'b.png', file])
    (tmp_path / 'in/sub').mkdir()
    (tmp_path / 'in/link.png').symlink_to(outside / 'secret.png')
    (tmp_path / 'in/linked').symlink_to(outside)
    refused([word.format(m=m) for word in READERS[command]], 'c: image', 'leads out of')
    assert not any((tmp_path / 'o').rglob('*')) and untouched(outside)


@pytest.mark.parametrize('column', ['lesion_mask', 'structures', 'soft_mask'])
def test_masks_from_outside_are_not_read(tmp_path, outside, column):
    m = table(tmp_path / 'in', **{column: ['', '', '../outside/secret.png']})
    for command in ('validate', 'export'):
        refused([word.format(m=m) for word in READERS[command]], f'c: {column}', 'leads out of')


def test_the_word_of_the_user(tmp_path, outside):
    "It lets a command read, and an export take nothing"
    m = table(tmp_path / 'in', image=['a.png', 'b.png', '../outside/secret.png'])
    assert medsoft('data', 'validate', m, '--outside')[0] == 0
    assert os.environ.get('MEDSOFT_OUTSIDE') is None
    refused(['export', m, '--out', 'o', '--outside'], 'leads out of')


def test_a_manifest_of_our_own_may_lie_elsewhere(tmp_path, outside):
    "But writing a stranger's manifest again does not make it one's own"
    make_benchmark('phantom-fracture', tmp_path / 'in', 6, 6, per_patient=1, seed=0)
    code, text = medsoft('data', 'split', tmp_path / 'in/manifest.csv', '--out', tmp_path / 'else/where.csv')
    assert code == 0, text
    assert medsoft('data', 'validate', tmp_path / 'else/where.csv')[0] == 0
    rows = Manifest.load(tmp_path / 'in/manifest.csv').df
    rows.loc[0, 'image'] = '../outside/secret.png'
    rows.to_csv(tmp_path / 'in/stranger.csv', index=False)
    assert medsoft('data', 'split', tmp_path / 'in/stranger.csv', '--out', tmp_path / 'else/other.csv')[0] == 0
    refused(['data', 'validate', tmp_path / 'else/other.csv'], 'leads out of')


WRITERS = {
    'import': ('data', 'import', '{root}/in', '--table', '{m}', '--out', 'o'),
    'phantom': ('data', 'phantom', 'phantom-tumour', '--healthy', '1', '--diseased', '1', '--out', 'o'),
    'export': ('export', '{m}', '--out', 'o'),
    'generate': ('generate', '{m}', '--out', 'o'),
    'train': ('train', '{m}', '--out', 'o'),
    'reproduce': ('reproduce', '--out', 'o'),
}


@pytest.mark.parametrize(
    'link', ['images', '.importing', '.part', '.lock', 'soft', 'deep/images', 'rows.jsonl', 'none']
)
@pytest.mark.parametrize('command', WRITERS)
def test_planted_links_are_refused(tmp_path, outside, command, link):
    m = table(tmp_path / 'in')
    planted = tmp_path / 'o' / link
    planted.parent.mkdir(parents=True)
    planted.symlink_to(outside / 'new' if link == 'none' else outside / 'keep.txt' if '.' in link[1:] else outside)
    words = [word.format(m=m, root=tmp_path) for word in WRITERS[command]]
    refused(words, f'the link {link!r}, which leads out of it')
    assert untouched(outside) and planted.is_symlink()


@pytest.mark.parametrize('file', ['settings.json', 'training.json', 'loss.csv', 'run.json', 'manifest.csv'])
def test_a_link_in_a_folder_that_goes_on_is_refused(tmp_path, outside, file):
    "Of a batch, a training, a run or a Studio, whatever it holds already"
    from medsoft_nb.painting.rows import check_batch
    from medsoft_nb.training.inputs import check_output

    out = tmp_path / 'o'
    out.mkdir()
    (out / file).write_text('{"n_per_label": 1}')
    (out / 'images').symlink_to(outside)
    for begin in (check_batch, check_output, lambda path: folder_lock(path).__enter__()):
        with pytest.raises(FileExistsError, match="the link 'images', which leads out of it"):
            begin(out)
    assert untouched(outside)


@pytest.mark.parametrize('path', ['../outside/secret.png', '{outside}/secret.png', 'images/../../outside/secret.png'])
def test_records_that_name_other_files(tmp_path, outside, path):
    "Checksums, rows of a batch, weights of a training"
    from medsoft_nb.core.files import sha256
    from medsoft_nb.painting.repair import is_sound
    from medsoft_nb.training.checkpoints import read_trained

    out, path = tmp_path / 'o', path.format(outside=outside)
    (out / 'images').mkdir(parents=True)
    digest = sha256(outside / 'secret.png')
    (out / 'SHA256SUMS').write_text(f'{digest}  {path}\n')
    assert [row['fault'] for row in changed_files(out)] == ['changed']
    assert not is_sound(out, dict(image=path, sha256=digest))
    (out / 'training.json').write_text(json.dumps(dict(weights={path: digest[:16]})))
    with pytest.raises(ValueError, match='leads out of'):
        read_trained(out)


BOMB = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
BOMB += [f'a{k}: &a{k} [{", ".join([f"*a{k - 1}"] * 9)}]' for k in range(1, 10)]
YAML = {
    'aliases that explode': '\n'.join(BOMB),
    'a list in itself': 'seeds: &a [*a]',
    'a mapping in itself': '&a {diseases: *a, seeds: *a}',
    'too deep': 'seeds: ' + '[' * 2000,
    'deep blocks': '- ' * 5000,
    'code': 'seeds: !!python/object/apply:os.system ["touch outside/ran"]',
    'a name of python': 'seeds: !!python/name:os.system',
    'a key that is a mapping': '{{a: b}: c}',
    'merged with a number': '<<: 1\nseeds: [0]',
    'a date that is none': 'seeds: 2026-99-99',
    'a number': '7',
    'a list': '[seeds]',
    'open': 'seeds: [0',
    'a tab': 'seeds:\n\t- 0',
    'two documents': 'seeds: [0]\n---\nseeds: [1]',
    'not text': b'\xff\xfe\x00\x00',
    'large': 'x' * 3_000_000,
}


@pytest.mark.parametrize('name', YAML)
@pytest.mark.parametrize('option', ['--profile', '--knowledge'])
def test_yaml_of_others(tmp_path, outside, name, option):
    content = YAML[name]
    (tmp_path / 'odd.yml').write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(['reproduce', option, 'odd.yml', '--out', 'o', '--dry-run'], 'odd.yml')
    assert untouched(outside) and not (tmp_path / 'o').exists()


@pytest.mark.parametrize(
    'text',
    [
        "prepare: {benchmark: ['../../x', phantom-tumour]}",
        "prepare: {benchmark: ['phantom-tumour', '/abs']}",
        "prepare: {n_diseased: ['../../x', 3]}",
        "prepare: {benchmark: [['a']]}",
        'arms: ["../../x"]',
        'title: {a: 1}',
        'seeds: [0, {a: 1}]',
        'knowledge: [../../x]',
    ],
)
def test_lists_of_a_profile(tmp_path, outside, text):
    (tmp_path / 'p.yml').write_text(text if text.startswith('seeds') else f'seeds: [0]\n{text}')
    refused(['reproduce', '--profile', 'p.yml', '--out', 'deep/o', '--dry-run'])
    refused(['reproduce', '--profile', 'p.yml', '--out', 'deep/o'])
    assert untouched(outside) and not (tmp_path / 'x').exists() and not any(tmp_path.glob('deep/*'))


TABLES = {
    **{
        f'spacing {x}': dict(spacing_mm=[1, 1, x])
        for x in ('-1', '0', 'inf', '-inf', 'nan', '1e-9', '1e7', '1,5', 'mm')
    },
    **{f'control in {c}': {c: ['a\x1b[2Jx', 'b', 'c']} for c in ('image_id', 'patient_id', 'label', 'site', 'prompt')},
    **{f'bell in {c}': {c: ['x\x07y', 'b', 'c']} for c in ('modality', 'plane', 'image_id', 'label')},
    **{f'line end in {c}': {c: ['x\ny', 'b', 'c']} for c in ('image_id', 'patient_id', 'label', 'prompt')},
    'turned writing': dict(prompt=['x\u202ey', 'b', 'c']),
    **{f'long {c}': {c: ['x' * 201, 'b', 'c']} for c in ('image_id', 'patient_id', 'label', 'source_id')},
}


@pytest.mark.parametrize('name', TABLES)
def test_tables_that_validate_refuses(tmp_path, name):
    (column,) = TABLES[name]
    text = refused(['data', 'validate', table(tmp_path / 'in', **TABLES[name])], column)
    assert '\x1b[2J' not in text and '\x07' not in text


CUT = {
    'cells lack': ('', -12),
    'inside of a quote': ('d,s,d.png,"heal', 0),
    'inside of the label': ('d,s,d.png,heal', 0),
    'one cell': ('d', 0),
    'after a line end': ('d,s\n', 0),
}


@pytest.mark.parametrize('name', CUT)
def test_tables_that_are_cut_short(tmp_path, name):
    m = table(tmp_path / 'in')
    more, cut = CUT[name]
    text = m.read_text() + more
    m.write_text(text[:cut] if cut else text)
    refused(['data', 'validate', m], 'manifest.csv')
    refused(['data', 'split', m], 'manifest.csv')


@pytest.mark.parametrize('kind', ['float.tif', 'float.npy', 'int16.npy'])
@pytest.mark.parametrize('modality', ['', 'MR', 'MRI T2', 'radiograph', 'CT'])
def test_negative_numbers(tmp_path, kind, modality):
    m = table(tmp_path / 'in', image=['a.png', 'b.png', kind], modality=modality)
    image = np.random.default_rng(3).normal(0, 400, (24, 24)).astype(np.int16 if 'int' in kind else np.float32)
    write_image(m.with_name(kind), image) if kind.endswith('.tif') else np.save(m.with_name(kind), image)
    if modality == 'CT':
        assert medsoft('data', 'validate', m)[0] == 0
    else:
        refused(['data', 'validate', m], 'c: image', kind, 'reaches down to -')


def huge(path):
    "A small file that claims to be an image of 40,000 x 40,000 pixels"
    if path.suffix == '.npy':
        np.lib.format.open_memmap(path, 'w+', np.uint8, (40_000, 40_000)).flush()  # takes no room on the disk
        return
    head = write_image(path.with_name(f'small{path.suffix}'), np.zeros((8, 8), np.uint8)).read_bytes()
    if path.suffix == '.png':
        import zlib

        size = (40_000).to_bytes(4, 'big') * 2 + head[24:29]
        path.write_bytes(head[:16] + size + zlib.crc32(b'IHDR' + size).to_bytes(4, 'big') + head[33:])
    else:
        from PIL import Image

        with Image.open(path.with_name('small.tif')) as image:
            image.tag_v2[256], image.tag_v2[257] = 40_000, 40_000
        for tag in (b'\x00\x01', b'\x01\x01'):
            at = head.index(tag, int.from_bytes(head[4:8], 'little'))
            kind = int.from_bytes(head[at + 2 : at + 4], 'little')
            head = (
                head[: at + 8]
                + (40_000).to_bytes(2 if kind == 3 else 4, 'little')
                + head[at + (10 if kind == 3 else 12) :]
            )
        path.write_bytes(head)


@pytest.mark.parametrize('suffix', ['.png', '.npy', '.tif'])
@pytest.mark.parametrize('column', ['image', 'lesion_mask'])
def test_too_many_pixels(tmp_path, suffix, column):
    cells = ['a.png', 'b.png', f'huge{suffix}'] if column == 'image' else ['', '', f'huge{suffix}']
    labels = 'healthy' if column == 'image' else ['healthy', 'healthy', 'lytic']
    m = table(tmp_path / 'in', **{column: cells, 'label': labels})
    huge(m.with_name(f'huge{suffix}'))
    refused(['data', 'validate', m], f'huge{suffix}', '40000 x 40000 pixels')


def test_the_limit_can_be_set(tmp_path, monkeypatch):
    m = table(tmp_path / 'in')
    assert medsoft('data', 'validate', m)[0] == 0
    refused(['data', 'validate', m, '--max-pixels', '100'], '24 x 24 pixels', 'at most 100 of an image')
    monkeypatch.setenv('MEDSOFT_MAX_PIXELS', '100')
    refused(['data', 'validate', m], 'at most 100 of an image')
    assert medsoft('data', 'validate', m, '--max-pixels', '1000')[0] == 0
    monkeypatch.setenv('MEDSOFT_MAX_PIXELS', 'many')
    refused(['data', 'validate', m], "MEDSOFT_MAX_PIXELS is 'many'")


def test_volumes_of_too_many_voxels(tmp_path):
    nib = pytest.importorskip('nibabel')
    folder = tmp_path / 'scans'
    folder.mkdir()
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    image.header['dim'][1:4] = 30_000, 30_000, 2
    (folder / 'x.nii').write_bytes(bytes(image.header.binaryblock) + bytes(4) + bytes(1000))
    refused(
        ['data', 'import', folder, '--default-label', 'healthy', '--patient', '(?P<patient>x)', '--out', 'o'], 'x.nii'
    )


PART = dict(vae='config.json', unet='config.json', text_encoder='config.json')
PART |= dict(tokenizer='tokenizer_config.json', scheduler='scheduler_config.json')
CONFIGS = {
    'text for a number': ('unet', dict(in_channels='9')),
    'a mapping for a number': ('unet', dict(out_channels=dict(a=1))),
    'text in a list': ('unet', dict(block_out_channels=[32, 'x'])),
    'a number for a list': ('vae', dict(block_out_channels=3)),
    'a list in a list': ('vae', dict(down_block_types=[['x']])),
    'a mapping for a switch': ('unet', dict(center_input_sample={})),
    'nothing for a number': ('vae', dict(latent_channels=None)),
    'text for a width': ('text_encoder', dict(hidden_size='wide')),
    'a list for a type': ('text_encoder', dict(model_type=['clip_text_model'])),
    'a mapping for a length': ('tokenizer', dict(model_max_length={})),
    'text for a rate': ('scheduler', dict(beta_start='small')),
    'a list for a class': ('scheduler', dict(_class_name=['DDIMScheduler'])),
    'code of its own': ('unet', dict(auto_map=dict(AutoModel='unet.Mine'))),
    'code deep inside': ('text_encoder', dict(vision=dict(auto_map=dict(AutoModel='x.Y')))),
    'a pipeline of its own': ('unet', dict(custom_pipeline='mine')),
    'trust': ('tokenizer', dict(trust_remote_code=True)),
}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    "The shipped base without its weights: nothing here is refused later than by its configurations"
    from medsoft_nb.core.files import data_path

    folder = tmp_path_factory.mktemp('base') / 'base'
    shutil.copytree(data_path('models', 'medsoft-tiny'), folder, ignore=shutil.ignore_patterns('*.safetensors'))
    return folder


@pytest.mark.parametrize('name', CONFIGS)
def test_configurations_of_the_wrong_type(tmp_path, base, name):
    from medsoft_nb.models.base import check_layout

    part, change = CONFIGS[name]
    shutil.copytree(base, tmp_path / 'base')
    check_layout(tmp_path / 'base', 'mine')
    file = tmp_path / 'base' / part / PART[part]
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=PART[part]) as caught:
        check_layout(tmp_path / 'base', 'mine')
    assert f'`{next(iter(change))}' in str(caught.value) or '`auto_map`' in str(caught.value)


@pytest.mark.parametrize('content', ['[]', '7', '{', '', '[' * 5000, '"x"', 'null', '{"a": NaN'])
@pytest.mark.parametrize('part', ['unet', 'scheduler', 'index'])
def test_configurations_that_are_none(tmp_path, base, part, content):
    from medsoft_nb.models.base import check_layout

    shutil.copytree(base, tmp_path / 'base')
    file = tmp_path / 'base' / ('model_index.json' if part == 'index' else f'{part}/{PART[part]}')
    file.write_text(content)
    with pytest.raises(ValueError, match=file.name):
        check_layout(tmp_path / 'base', 'mine')


@pytest.mark.parametrize(
    'index', [dict(unet=['my_unet', 'X']), dict(_class_name=['pipeline', 'X']), dict(vae=['os', 'x'])]
)
def test_an_index_with_code_is_refused(tmp_path, base, index):
    from medsoft_nb.models.base import check_layout

    shutil.copytree(base, tmp_path / 'base')
    (tmp_path / 'base/my_unet.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    file = tmp_path / 'base/model_index.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    with pytest.raises(ValueError, match='model_index.json'):
        check_layout(tmp_path / 'base', 'mine')
    assert not (tmp_path / 'ran').exists()


def test_a_revision_reaches_the_hub_and_the_record(base, monkeypatch):
    import huggingface_hub
    from medsoft_nb.models.files import hub_folder, is_hub_id

    asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda name, **o: asked.append((name, o)) or base)
    assert is_hub_id('owner/model@5ede9e4') and not is_hub_id('owner/model@')
    hub_folder('owner/model@5ede9e4', ['*.json'])
    assert asked == [('owner/model', dict(allow_patterns=['*.json'], revision='5ede9e4'))]


@pytest.mark.parametrize('name', ['../../ESC', '/abs', 'a/b', '..', 'CON'])
def test_names_of_readers_and_uploads(tmp_path, outside, name):
    from medsoft_nb.apps.uploads import uploaded_image

    content = (outside / 'secret.png').read_bytes()
    assert (uploaded_image(f'{name}/x.png', content) == SECRET).all()
    assert untouched(outside) and not Path('/abs').exists()
