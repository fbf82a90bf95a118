"Stage adapt on the command line: healthy training images alone, and a fine-tuning that goes on from it"

import pytest
from command import medsoft
from medsoft_nb.core.files import read_json
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.models.base import save_base
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('adapt')
    save_base(tiny_components(0), folder / 'base')
    m = make_benchmark('phantom-tumour', folder / 'data', n_healthy=6, n_diseased=12, seed=0)
    label = m.df.label.where(m.df.label == HEALTHY, 'lytic')
    part = label.groupby(label).cumcount() % 3
    df = m.df.assign(
        label=label, split=part.map({0: 'train', 1: 'val', 2: 'test'}), patient_id=[f'P{k}' for k in range(len(m))]
    )
    Manifest(df, m.root).save(folder / 'data/manifest.csv')
    return folder


def adapt(folder, out, *words, manifest='manifest.csv'):
    given = ['--base', folder / 'base', '--steps', 2, '--batch-size', 2, '--rank', 2, '--roi', 16]
    return medsoft('train', folder / 'data' / manifest, '--out', folder / out, *given, *words)


@pytest.mark.trains
def test_only_healthy_training_patients_take_part_and_a_lora_goes_on(folder):
    code, text = adapt(folder, 'adapted', '--stage', 'adapt', '--validate-every', 1)
    assert code == 0, text
    df = Manifest.load(folder / 'data/manifest.csv').df
    used = df[(df.split == 'train') & (df.label == HEALTHY)]
    record = read_json(folder / 'adapted/training.json')
    assert record['images'] == {HEALTHY: len(used)} and record['patients'] == sorted(used.patient_id)
    code, text = adapt(folder, 'after', '--lora', folder / 'adapted')
    assert code == 0, text
    after = read_json(folder / 'after/training.json')
    assert set(after['images']) - {HEALTHY} and set(record['patients']) < set(after['patients'])
    pipe = MedSoftPipeline.from_pretrained(folder / 'base')
    pipe.load_lora_weights(folder / 'after')
    assert pipe.unet.peft_config


@pytest.mark.trains
def test_weights_that_know_patients_of_the_test_are_refused(folder):
    "Trained on another split, or before there was one; also where another training went on from there"
    m = Manifest.load(folder / 'data/manifest.csv')
    m.assign(split='').save(folder / 'data/free.csv')
    assert adapt(folder, 'free', '--stage', 'adapt', manifest='free.csv')[0] == 0
    assert adapt(folder, 'further', '--lora', folder / 'free', manifest='free.csv')[0] == 0
    painted = ['generate', folder / 'data/manifest.csv', '--base', folder / 'base', '--out', folder / 'made']
    for code, text in (
        adapt(folder, 'again', '--lora', folder / 'further'),
        medsoft(*painted, '--lora', folder / 'further', '-n', 1, '--steps', 1, '--roi', 32),
    ):
        assert code == 2 and 'the weights have learned from 12 patients of val or test' in ' '.join(text.split()), text
    assert not (folder / 'again').exists() and not (folder / 'made').exists()


def adapt_decoder(folder, out, *words, manifest='manifest.csv'):
    given = ['--base', folder / 'base', '--steps', 2, '--batch-size', 2, '--side', 16]
    return medsoft('adapt-decoder', folder / 'data' / manifest, '--out', folder / out, *given, *words)


@pytest.mark.trains
def test_a_decoder_learns_from_healthy_training_patients_and_its_base_paints(folder):
    code, text = adapt_decoder(folder, 'drawn')
    assert code == 0 and 'Windows of healthy images of the val split come back with' in text, text
    df = Manifest.load(folder / 'data/manifest.csv').df
    used = df[(df.split == 'train') & (df.label == HEALTHY)]
    assert read_json(folder / 'drawn/training.json')['patients'] == sorted(used.patient_id)
    words = ['--base', folder / 'drawn', '-n', 1, '--steps', 1, '--roi', 32, '--out', folder / 'painted']
    code, text = medsoft('generate', folder / 'data/manifest.csv', *words)
    assert code == 0, text
    code, text = adapt_decoder(folder, 'drawn', '--steps', 3)
    assert code == 2 and 'holds a base with other settings (steps: 2, now 3)' in ' '.join(text.split()), text


@pytest.mark.trains
def test_a_base_that_knows_patients_of_the_test_is_refused(folder):
    m = Manifest.load(folder / 'data/manifest.csv')
    m.assign(split='').save(folder / 'data/unsplit.csv')
    assert adapt_decoder(folder, 'leaky', manifest='unsplit.csv')[0] == 0
    profile = 'seeds: [0]\nprepare: {n_diseased: 1}\nfinetune: {base: BASE, roi: 32}\ngenerate: {base: BASE, roi: 32}'
    (folder / 'leaky.yml').write_text(profile.replace('BASE', str(folder / 'leaky')))
    data, out = folder / 'data/manifest.csv', ['--out', folder / 'out']
    for words in (
        ['train', data, '--base', folder / 'leaky'],
        ['generate', data, '--base', folder / 'leaky'],
        ['adapt-decoder', data, '--base', folder / 'leaky'],
        ['reproduce', '--manifest', data, '--profile', folder / 'leaky.yml'],
    ):
        code, text = medsoft(*words, *out)
        assert code == 2 and 'the weights have learned from 4 patients of val or test' in ' '.join(text.split()), text
    assert not (folder / 'out').exists()


def test_without_a_healthy_image_nothing_is_written(folder):
    m = Manifest.load(folder / 'data/manifest.csv')
    m.where(label=m.diseases).save(folder / 'data/diseased.csv')
    code, text = adapt(folder, 'none', '--stage', 'adapt', manifest='diseased.csv')
    assert code == 2 and 'no healthy image, and stage adapt learns from these' in ' '.join(text.split()), text
    code, text = adapt_decoder(folder, 'none', manifest='diseased.csv')
    assert code == 2 and 'no healthy image to learn from' in ' '.join(text.split()), text
    assert not (folder / 'none').exists()
