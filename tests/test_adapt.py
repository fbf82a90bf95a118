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
    m = make_benchmark('phantom-tumour', folder / 'data', n_healthy=6, n_diseased=6, seed=0)
    label = m.df.label.where(m.df.label == HEALTHY, 'lytic')
    part = label.groupby(label).cumcount() % 3
    df = m.df.assign(
        label=label, split=part.map({0: 'train', 1: 'val', 2: 'test'}), patient_id=[f'P{k}' for k in range(len(m))]
    )
    Manifest(df, m.root).save(folder / 'data/manifest.csv')
    return folder


def adapt(folder, out, *words, manifest='manifest.csv'):
    given = ['--base', folder / 'base', '--steps', 2, '--batch-size', 2, '--rank', 2, '--roi', 32]
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
        assert code == 2 and 'the weights have learned from 8 patients of val or test' in ' '.join(text.split()), text
    assert not (folder / 'again').exists() and not (folder / 'made').exists()


def test_without_a_healthy_image_nothing_is_written(folder):
    m = Manifest.load(folder / 'data/manifest.csv')
    m.where(label=m.diseases).save(folder / 'data/diseased.csv')
    code, text = adapt(folder, 'none', '--stage', 'adapt', manifest='diseased.csv')
    assert code == 2 and 'no healthy image, and stage adapt learns from these' in ' '.join(text.split()), text
    assert not (folder / 'none').exists()
