"A disease and an organ that the knowledge base does not know, from a folder of images to the report."

import numpy as np, pandas as pd, pytest
from command import medsoft
from pretend import start
from medsoft_nb.core.files import read_json
from medsoft_nb.core.images import write_image
from medsoft_nb.core.seeds import rng
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.knowledge.prompts import compose
from medsoft_nb.models.base import save_base
from medsoft_nb.models.texts import local_limits
from medsoft_nb.models.tiny import tiny_components

pytestmark = [pytest.mark.slow, pytest.mark.trains]

HEALTHY, BLISTER = 'photograph of healthy skin', 'photograph of skin with a blister'
PROFILE = '''
seeds: [0]
arms: [lora-smis, lora-smis+adapt, lora-smis+pasted]
variants: [lora-smis+augmented, lora-smis+real-last, lora-smis+unpaired, lora-smis+sham]
prepare: {n_diseased: 3, fractions: [0.5, 0.1, 0.4]}
finetune: {base: BASE, steps: 1, batch_size: 2, roi: 32, adapt_steps: 1}
generate: {base: BASE, roi: 32, steps: 1}
quality: {namer_steps: 1, extractor: medsoft-tiny}
classify: {steps: 2, batch_size: 4, controls: [real-only], healthy: false}
'''


def draw(folder, name, blister):
    "A grey disc on black, and a bright spot in it; with masks of both"
    r = rng('blister', name)
    y, x = np.mgrid[:64, :64]
    skin, spot = np.hypot(y - 32, x - 32) < 26, np.hypot(y - r.integers(20, 44), x - r.integers(20, 44)) < 6
    image = 90 * skin + 100 * (spot & blister) + r.normal(0, 4, (64, 64))
    write_image(folder / f'images/{name}', image.clip(0, 255).astype(np.uint8))
    write_image(folder / f'skin/{name}', skin)
    if blister:
        write_image(folder / f'spots/{name}', spot)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Images, masks and a table of 22 patients, a base of random weights, and a profile"
    folder, rows = tmp_path_factory.mktemp('own'), []
    for part in ('images', 'skin', 'spots'):
        (folder / part).mkdir()
    for k in range(22):
        label = 'blister' if k % 2 else 'healthy'
        draw(folder, f'{k:02d}.png', bool(k % 2))
        rows.append(dict(file=f'{k:02d}.png', patient=f'p{k}', label=label, text=BLISTER if k % 2 else HEALTHY))
    pd.DataFrame(rows).to_csv(folder / 'index.csv', index=False)
    save_base(tiny_components(0), folder / 'base')
    (folder / 'smallest.yml').write_text(PROFILE.replace('BASE', str(folder / 'base')))
    return folder


@pytest.fixture(scope='module')
def manifest(folder):
    columns = ['--column', 'image_id=file', '--column', 'patient_id=patient', '--column', 'prompt=text']
    masks = ['--masks', folder / 'skin', '--lesion-masks', folder / 'spots', '--table', folder / 'index.csv']
    code, text = medsoft(
        'data', 'import', folder / 'images', *masks, *columns, '--plane', 'axial', '--out', folder / 'mine'
    )
    assert code == 0, text
    return folder / 'mine/manifest.csv'


def reproduce(folder, manifest, *words):
    given = ['--profile', folder / 'smallest.yml', '--manifest', manifest, '--out', folder / 'run']
    return medsoft('reproduce', *given, *words)


def test_an_own_disease_runs_to_the_report(folder, manifest):
    "Every image is painted with the prompts of the manifest, healthy ones too; on an accelerator, which is pretended"
    given = ['--profile', 'smallest.yml', '--manifest', str(manifest), '--out', 'run']
    code, text = start(folder, '-c', 'from medsoft_nb.apps.cli import main; main()', 'reproduce', *given)
    assert code == 0, text
    for file in ('run.json', 'seed-0/trained/lora/training.json'):
        assert read_json(folder / 'run' / file)['device']['device'].startswith('pretend')
    made = {
        arm: Manifest.load(folder / f'run/seed-0/synthetic/{arm}/manifest.csv') for arm in ('lora-smis', 'healthy')
    }
    assert set(made['lora-smis'].df.prompt) == {BLISTER} and set(made['healthy'].df.prompt) == {HEALTHY}
    aucs = pd.read_csv(folder / 'run/tables/auc.csv')
    plain = {'real-only', 'copy-paste', 'lora-smis', 'lora-smis+adapt', 'lora-smis+pasted', 'oracle'}
    varied = {f'lora-smis+{use}' for use in ('augmented', 'real-last', 'paired', 'unpaired', 'sham')}
    assert set(aucs.arm) == plain | varied and aucs.value.notna().all()
    quality = pd.read_csv(folder / 'run/tables/quality.csv')
    assert 'semantic_score' in set(quality.metric) and quality.value.notna().all()
    assert 'blister' in (folder / 'run/report.html').read_text()


def test_adapted_and_pasted_arms_and_variants_leave_their_traces(folder):
    "Who taught the base, whose lesion painting started from, and an effect of each part and each use"
    trained, made = folder / 'run/seed-0/trained', folder / 'run/seed-0/synthetic'
    df = Manifest.load(folder / 'run/data/manifest.csv').df
    train = df[df.split == 'train']
    seen = {name: set(read_json(trained / name / 'training.json')['patients']) for name in ('adapt', 'lora-adapt')}
    assert seen == {'adapt': set(train.patient_id[train.label == 'healthy']), 'lora-adapt': set(train.patient_id)}
    assert len(pd.read_csv(trained / 'adapt/loss.csv')) == 1
    rows = {arm: Manifest.load(made / arm / 'manifest.csv').df for arm in ('copy-paste', 'lora-smis+pasted')}
    for name in ('donor_id', 'donor_hash', 'source_id'):
        assert list(rows['copy-paste'][name]) == list(rows['lora-smis+pasted'][name]), name
    assert set(rows['lora-smis+pasted'].strength.astype(float)) == {0.6}
    assert set(Manifest.load(made / 'healthy/manifest.csv').df.label) == {'healthy'}
    effects = pd.read_csv(folder / 'run/tables/effects.csv').set_index('factor').pairs.to_dict()
    parts = ('adaptation', 'start from a pasted lesion')
    uses = ('real images last', 'background or its twin, not both', 'healthy painted as healthy', 'augmentation')
    assert effects == dict.fromkeys((*parts, *uses), 1)
    gains = pd.read_csv(folder / 'run/tables/gain.csv')
    assert not gains.arm.str.contains('sham|paired').any() and {'lora-smis+real-last', 'lora-smis+augmented'} < set(
        gains.arm
    )


@pytest.mark.parametrize(
    'sentence, columns',
    [
        ("has no prompt, and the knowledge base does not know the label 'blister'", {'prompt': HEALTHY}),
        ('it is healthy and has no prompt', {'prompt': BLISTER}),
        ('tokens, but the base', {'prompt': BLISTER + ' of the skin' * 40}),
        ('has no `structures`', {'structures': ''}),
        ('have neither a `lesion_mask` nor a `box`', {'lesion_mask': ''}),
        ('rows have the origin synthetic', {'origin': 'synthetic'}),
        ('have no split', {'split': 'train'}),
        ('the split val has no healthy image', {'split': 'all train'}),
    ],
)
def test_what_is_lacking_is_told_before_the_first_job(folder, manifest, sentence, columns):
    m = Manifest.load(manifest)
    changed = {**columns}
    if 'prompt' in columns and len(columns['prompt']) < 100:
        changed['prompt'] = m.df.prompt.where(m.df.prompt == columns['prompt'], '')
    if 'split' in columns:
        changed['split'] = 'train' if 'all' in columns['split'] else ['train'] * 20 + [''] * 2
    path = Manifest(m.df.assign(**changed), m.root).save(folder / 'mine/changed.csv')
    code, text = reproduce(folder, path, '--dry-run')
    assert code == 2 and sentence in text and 'changed.csv' in text, text
    assert 'Traceback' not in text and len(text.splitlines()) == 1


ONE_CLASS = {
    'healthy only': 'split test has no diseased image, but train has',
    'train': 'no rows of split test. Run `medsoft data split`',
    '': 'no rows of split test. Run `medsoft data split`',
}


@pytest.mark.parametrize('split', ONE_CLASS)
def test_a_test_set_of_one_class_is_refused_before_training(folder, manifest, split):
    m = Manifest.load(manifest)
    healthy_only = m.df.label.map({'healthy': 'test', 'blister': 'train'}).where(m.df.image_id != '00', 'train')
    splits = healthy_only if split == 'healthy only' else split
    path = Manifest(m.df.assign(split=splits), m.root).save(folder / 'mine/split.csv')
    code, text = medsoft('classify', path, '--steps', 1, '--seeds', 1, '--out', folder / 'tables')
    assert code == 2 and ONE_CLASS[split] in text and 'Traceback' not in text, text
    assert not (folder / 'tables').exists()


@pytest.mark.parametrize('command', [['train', '--steps', '1'], ['generate', '-n', '1', '--steps', '1']])
def test_a_prompt_that_would_be_cut_is_refused_before_anything_is_written(folder, manifest, command):
    m = Manifest.load(manifest)
    prompt = m.df.prompt.where(m.df.image_id != '05', BLISTER + ' of the left hand of an adult' * 5)
    path = Manifest(m.df.assign(prompt=prompt), m.root).save(folder / 'mine/long.csv')
    code, text = medsoft(command[0], path, *command[1:], '--out', folder / 'made')
    assert code == 2 and "05: the prompt 'photograph of skin" in text and 'would be cut off' in text, text
    assert not (folder / 'made').exists()


KNOWLEDGE = """organ: skin
diseases:
  blister: bright round spot
"""
COMPOSED = dict(
    blister='axial image of the skin, blister, bright round spot',
    healthy='axial image of the skin, healthy skin, no lesion',
)


@pytest.fixture(scope='module')
def bare(folder, manifest):
    "The same images without a prompt, and three lines that say what a blister is"
    m = Manifest.load(manifest)
    (folder / 'skin.yml').write_text(KNOWLEDGE)
    return Manifest(m.df.assign(prompt=''), m.root).save(folder / 'mine/bare.csv')


@pytest.mark.parametrize('how', ['option', 'profile', 'environment'])
def test_three_lines_of_knowledge_stand_for_all_prompts(folder, bare, how, monkeypatch):
    profile, words = (folder / 'smallest.yml').read_text(), []
    if how == 'option':
        words = ['--knowledge', folder / 'skin.yml']
    if how == 'profile':
        profile += f'knowledge: {folder / "skin.yml"}\n'
    if how == 'environment':
        monkeypatch.setenv('MEDSOFT_KNOWLEDGE', str(folder / 'skin.yml'))
    (folder / 'own.yml').write_text(profile)
    given = ['reproduce', '--profile', folder / 'own.yml', '--manifest', bare, '--out', folder / 'told', '--dry-run']
    code, text = medsoft(*given, *words)
    assert code == 0, text


@pytest.mark.parametrize('organ', ['kidney', 'pancreas', 'thyroid', 'abdomen', 'breast'])
def test_a_composed_prompt_of_a_healthy_organ_fits_the_shipped_encoder(tmp_path, organ):
    (tmp_path / 'own.yml').write_text(f'organ: {organ}\ndiseases:\n  cyst: dark round lesion\n')
    limit = local_limits('medsoft-tiny')[0]
    for modality in ('CT', 'MR', 'radiograph', 'ultrasound', ''):
        limit.check([compose('healthy', modality, plane='axial', knowledge=tmp_path / 'own.yml')])


@pytest.mark.parametrize('told', [False, True])
def test_an_import_that_is_told_of_the_disease_asks_for_no_prompts(folder, bare, told):
    "Without a file, it says that one can be given"
    masks = ['--masks', folder / 'skin', '--lesion-masks', folder / 'spots', '--table', folder / 'index.csv']
    given = [
        'data',
        'import',
        folder / 'images',
        *masks,
        '--column',
        'image_id=file',
        '--column',
        'patient_id=patient',
    ]
    code, text = medsoft(*given, *['--knowledge', folder / 'skin.yml'] * told, '--out', folder / f'told-{told}')
    assert code == 0 and ('knows none of the diseases' in text) == (not told), text
    assert told or '(`--knowledge`)' in text, text


def test_own_knowledge_is_painted_with(folder, bare):
    "Its words are in the rows, without a vertebra; a file that is wrong is refused before anything is written"
    given = ['generate', bare, '--base', folder / 'base', '-n', 1, '--steps', 1, '--roi', 32, '--out', folder / 'told']
    code, text = medsoft(*given, '--labels', 'blister,healthy', '--knowledge', folder / 'skin.yml')
    assert code == 0, text
    df = Manifest.load(folder / 'told/manifest.csv').df
    assert dict(zip(df.label, df.prompt)) == COMPOSED
    (folder / 'wrong.yml').write_text(KNOWLEDGE.replace('organ', 'organs'))
    code, text = medsoft(*given[:-1], folder / 'wrong', '--knowledge', folder / 'wrong.yml')
    assert code == 2 and "unknown key 'organs'. Did you mean 'organ'?" in text and not (folder / 'wrong').exists()
