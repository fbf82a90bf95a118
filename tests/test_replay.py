"Painted images are made again bit for bit from another folder, or it is said what differs."

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from command import medsoft
from diffusers.utils import convert_state_dict_to_diffusers
from medsoft_nb.apps.studio import StudioSession
from medsoft_nb.core.images import read_image, write_image
from medsoft_nb.core.notes import read_note
from medsoft_nb.core.sums import changed_files
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.models.base import load_base, save_base
from medsoft_nb.models.lora_files import read_lora
from medsoft_nb.painting.generate import generate, GenerateConfig, with_unet
from medsoft_nb.painting.paste import copy_paste
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.painting.replay import replay, replay_all
from medsoft_nb.phantom.benchmarks import make_benchmark
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

SMALL = GenerateConfig(n_per_label=3, steps=2, roi=32, batch_size=4)
FEW = SMALL.replace(n_per_label=2)
BATCHES = {
    'base': (SMALL.replace(n_per_label=4), {}),
    'alone': (SMALL.replace(batch_size=1), {}),
    'lora': (SMALL, dict(lora=True)),
    'steered': (SMALL.replace(controller_scale=0.5), dict(lora=True, controller='medsoft-tiny')),
    'pasted': (SMALL.replace(strength=0.5), {}),
    'hard': (FEW.replace(ramp=0.0, blend='none', band_correction=False, grain=False, seed=3), {}),
    'faithful': (FEW.replace(faithful='binary-mask,one-prompt,raw-tokens', scheduler='dpm++', roi='auto'), {}),
    'drawn': (FEW.replace(mask_source='knowledge', mask_profile='gaussian', structure_limit=True), {}),
}


def save_lora(folder, unet):
    "A LoRA that changes what is painted"
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=['to_q', 'to_v'], init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    MedSoftPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def wide(manifest):
    "Images of 16 bits, whose last grey levels depend on those that they are painted with; ids that tell of patients"
    df = manifest.df.assign(patient_id=[f'Miller-{i}' for i in range(len(manifest))])
    for i, path in enumerate(df.image):
        write_image(manifest.root / path, manifest.image(i).astype(np.uint16) * 201)
    new = Manifest(df, manifest.root)
    new.save(manifest.root / 'manifest.csv')
    return Manifest.load(manifest.root / 'manifest.csv')


def keep_in_studio(session, out):
    "Two variants in a phantom, one in a slice of the user's own, one more lesion in a painted image"
    session.settings.steps, session.settings.seed = 2, 5
    session.settings.negative_prompt = 'air'
    session.place(45, 25, seed=1)
    for variant in session.generate(2):
        session.keep(variant)
    session.paint_on(variant)
    y, x = (int(position.mean()) for position in np.where(session.structures == 3))
    session.place(x, y, seed=4)
    session.keep(session.generate()[0])


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A project with data, weights, batches and a studio's folder, moved elsewhere after it was made"
    before, after = (tmp_path_factory.mktemp(name) / 'project' for name in ('before', 'after'))
    m = wide(make_benchmark('phantom-tumour', before / 'data', n_healthy=4, n_diseased=6, seed=0))
    healthy, diseased = m.where(label=HEALTHY), m.where(label=m.diseases)
    save_base(load_base(), before / 'weights/base')
    save_lora(before / 'weights/lora', load_base(before / 'weights/base')['unet'])
    pipe = MedSoftPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    for name, (config, weights) in BATCHES.items():
        options = weights | (dict(lora=before / 'weights/lora') if 'lora' in weights else {})
        labels = ['lytic', HEALTHY] if name == 'base' else ['lytic', 'sclerotic']
        generate(pipe, healthy, diseased, before / name, labels, config, **options)
    copy_paste(healthy, diseased, before / 'copies', ['lytic'], 2)
    session = StudioSession(out=before / 'studio', lora=before / 'weights/lora', controller='medsoft-tiny')
    keep_in_studio(session, before / 'studio')
    shutil.move(before, after)
    return after


def test_every_image_is_made_again(made):
    "From another folder, with `medsoft replay FOLDER`: all are equal"
    counts = {}
    for name in (*BATCHES, 'copies', 'studio'):
        code, text = medsoft('replay', made / name)
        n = len(Manifest.load(made / name / 'manifest.csv'))
        assert code == 0 and f'{n} of {n} images are equal.' in text, (name, text)
        counts[name] = n
    assert sum(counts.values()) >= 40, counts
    assert all(changed_files(made / name) == [] for name in BATCHES)


def test_one_image_by_file_row_and_id(made, tmp_path):
    m = Manifest.load(made / 'lora/manifest.csv')
    name, file = m.df.image_id.iloc[4], m.path(4)
    for words in ((file,), (f'{made}/lora/manifest.csv:{name}',), (name, '--manifest', made / 'lora/manifest.csv')):
        code, text = medsoft('replay', *words, '--out', tmp_path / 'again.png')
        assert code == 0 and f'{name}: equal' in text, text
        assert (read_image(tmp_path / 'again.png') == m.image(4)).all()


def copy_of(made, tmp_path, *names):
    "Folders of the project, to change something in"
    for name in names:
        shutil.copytree(made / name, tmp_path / 'copy' / name)
    return tmp_path / 'copy'


def differences(code, text):
    assert code == 1 and ': differs' in text, text
    return text


def test_changed_sources_are_named(made, tmp_path):
    here = copy_of(made, tmp_path, 'data', 'pasted')
    m, data = Manifest.load(here / 'pasted/manifest.csv'), Manifest.load(here / 'data/manifest.csv')
    names = list(data.df.image_id)
    source, donor = (names.index(m.df[column].iloc[0]) for column in ('source_id', 'donor_id'))
    for i, said in ((donor, f'data: image and masks of the donor {names[donor]}'), (source, 'was painted into, ')):
        image = data.image(i)
        image[0, 0] += 1
        write_image(data.path(i), image)
        text = differences(*medsoft('replay', m.path(0)))
        assert said in text and 'not painted' in text, text
    code, text = medsoft('replay', m.path(0), '--source', made / 'data/manifest.csv')
    assert code == 0, text
    shutil.rmtree(here / 'data')
    code, text = medsoft('replay', m.path(0), '--source', here / 'pasted')
    assert code == 2 and f'{names[source]}, into which' in text and '--source' in text, text


def test_changed_weights_are_named(made, tmp_path):
    here = copy_of(made, tmp_path, 'data', 'lora', 'weights')
    file, weights = (
        Manifest.load(here / 'lora/manifest.csv').path(0),
        here / 'weights/lora/pytorch_lora_weights.safetensors',
    )
    other = {name: tensor * 1.01 for name, tensor in load_file(weights).items()}
    save_file(other, tmp_path / 'other.safetensors')
    known = Manifest.load(here / 'lora/manifest.csv').df
    text = differences(*medsoft('replay', file, '--lora', tmp_path / 'other.safetensors'))
    assert f'weights: the lora was {known.lora.iloc[0]}; ' in text and 'not painted' in text, text
    text = differences(*medsoft('replay', file, '--controller', 'medsoft-tiny'))
    assert 'weights: the controller was none; medsoft-tiny is ' in text, text
    unet = here / 'weights/base/unet/diffusion_pytorch_model.safetensors'
    save_file({name: tensor * 1.01 for name, tensor in load_file(unet).items()}, unet)
    text = differences(*medsoft('replay', file, '--base', here / 'weights/base'))
    assert f'weights: the weights were {known.weights.iloc[0]}, those here are ' in text, text
    assert 'unet/diffusion_pytorch_model.safetensors was ' in text, text


@pytest.mark.parametrize('column,value', [('steps', 3), ('prompt', 'a bright spot'), ('roi', ''), ('seed', 9)])
def test_changed_rows_are_named(column, value, made, tmp_path):
    here = copy_of(made, tmp_path, 'base')
    m = Manifest.load(here / 'base/manifest.csv')
    m.assign(**{column: value}).save(here / 'base/manifest.csv')
    text = differences(*medsoft('replay', m.path(1), '--source', made / 'data'))
    assert f'settings: `{column}` is ' in text and 'pixels: ' in text, text


def test_changed_settings_masks_and_pixels_are_named(made, tmp_path):
    here = copy_of(made, tmp_path, 'base')
    m, file = Manifest.load(here / 'base/manifest.csv'), here / 'base/settings.json'
    source = ('--source', made / 'data/manifest.csv')
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | dict(grain=False)))
    text = differences(*medsoft('replay', m.path(0), *source))
    assert 'settings: `grain` is True in the manifest, False in settings.json' in text, text
    file.write_text(json.dumps(settings))
    mask = m.mask(1, 'lesion_mask')
    write_image(m.path(1, 'lesion_mask'), np.roll(mask, 1, 0))
    assert 'data: the masks of ' in differences(*medsoft('replay', m.path(1), *source))
    write_image(m.path(1, 'lesion_mask'), mask)
    image = m.image(2)
    image[3, 4] += 7
    write_image(m.path(2), image)
    text = differences(*medsoft('replay', m.path(2), *source))
    assert 'pixels: 1 value of ' in text and 'by 7 at most' in text and 'was changed since it was painted' in text, (
        text
    )
    code, text = medsoft('replay', here / 'base', *source)
    assert code == 1 and f'{len(m) - 1} of {len(m)} images are equal.' in text, text


def test_versions_and_device_are_named_where_pixels_differ(made, tmp_path):
    here = copy_of(made, tmp_path, 'base')
    m = Manifest.load(here / 'base/manifest.csv')
    device = m.df.hardware[0].replace('cpu, float32', 'cuda:0, float16')
    words = dict(software=m.df.software[0].replace('torch ', 'torch 1.'), hardware=device)
    m.assign(**words).save(here / 'base/manifest.csv')
    assert replay(m.path(0), source=made / 'data').equal  # elsewhere, and equal all the same
    image = m.image(0)
    image[0, 0] += 1
    write_image(m.path(0), image)
    text = str(replay(m.path(0), source=made / 'data'))
    for said in ('versions: torch was 1.', 'device: device was cuda:0, is cpu', 'precision was float16, is float32'):
        assert said in text, text


def test_files_name_no_patient(made):
    "The note of a file has all settings, and no id of a patient, image or file"
    data = Manifest.load(made / 'data/manifest.csv').df
    for name in (*BATCHES, 'copies', 'studio'):
        m = Manifest.load(made / name / 'manifest.csv')
        for i in range(len(m)):
            note = read_note(m.path(i))
            kept = json.loads(note)
            assert kept['made_with'] == 'medsoft_nb' and 'software' in kept and 'seed' in kept
            ids = {*data.patient_id, *data.image_id, *data.image, m.df.source_id[i], m.df.image[i], str(made)}
            assert [text for text in ids if text in note] == []
            assert 'Miller' not in note and 'phantom-ct' not in note
    config = GenerateConfig(**kept['settings']) if 'n_per_label' in kept['settings'] else kept['settings']
    assert config['roi'] == 'auto' and kept['negative_prompt'] == 'air'


def test_a_prompt_that_names_a_patient_stays_out_of_the_file(made, tmp_path):
    m = Manifest.load(made / 'data/manifest.csv')
    healthy, diseased = m.where(label=HEALTHY), m.where(label='lytic')
    patients = 'lytic lesion of ' + pd.Series(sorted(set(healthy.df.patient_id))).str.cat(sep=' and ')
    own = diseased.assign(prompt=patients)
    pipe = MedSoftPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    batch = generate(pipe, healthy, own, tmp_path / 'own', ['lytic'], SMALL.replace(n_per_label=1))
    assert 'Miller' not in read_note(batch.path(0)) and batch.df.prompt[0] == patients
    assert replay(batch.path(0)).equal


def test_rows_of_older_versions_are_made_again(made, tmp_path):
    "Without the columns, notes and origins that are new; with settings.json"
    here = copy_of(made, tmp_path, 'steered')
    m = Manifest.load(here / 'steered/manifest.csv')
    new = 'roi resolution band_correction grain controller_scale faithful software hardware source_hash'.split()
    for i in range(len(m)):
        write_image(m.path(i), m.image(i))
    older = Manifest(m.df.drop(columns=[*new, 'structure_limit', 'negative_prompt', 'sha256']), m.root)
    older.save(here / 'steered/manifest.csv')
    (here / 'steered/origins.json').unlink()
    with pytest.raises(ValueError, match='the base .* is not found'):
        replay_all(here / 'steered')
    weights = dict(base='medsoft-tiny', lora=made / 'weights/lora', controller='medsoft-tiny')
    assert all(one.equal for one in replay_all(here / 'steered', made / 'data', **weights))


def test_float_images_and_a_trained_network_are_made_again(tmp_path):
    "TIFF files with the note in their description; the U-Net is found, and another one is named"
    m = make_benchmark('phantom-tumour', tmp_path / 'data', n_healthy=2, n_diseased=3, seed=0)
    for i in range(len(m)):
        write_image(m.path(i).with_suffix('.tif'), m.image(i) / np.float32(7))
    m.assign(image=m.df.image.str.replace('.png', '.tif')).save(tmp_path / 'data/manifest.csv')
    m = Manifest.load(tmp_path / 'data/manifest.csv')
    pipe = MedSoftPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    for name, factor in (('full', 1.05), ('other', 1.1)):
        pipe.unet.save_pretrained(tmp_path / name / 'unet')
        file = tmp_path / name / 'unet/diffusion_pytorch_model.safetensors'
        save_file({key: tensor * factor for key, tensor in load_file(file).items()}, file)
    healthy, diseased = m.where(label=HEALTHY), m.where(label=m.diseases)
    made = generate(with_unet(pipe, tmp_path / 'full'), healthy, diseased, tmp_path / 'made', ['lytic'], SMALL)
    assert made.path(0).suffix == '.tif' and json.loads(read_note(made.path(0)))['weights']['unet'] == made.df.unet[0]
    code, text = medsoft('replay', tmp_path / 'made')
    assert code == 0 and '3 of 3 images are equal.' in text, text
    assert replay(made.path(1)).equal  # alone, or with those that it was painted with
    text = differences(*medsoft('replay', made.path(0), '--unet', tmp_path / 'other'))
    assert f'weights: the unet was {made.df.unet[0]}; ' in text, text


def test_what_is_no_painted_image_is_refused(made, tmp_path):
    for words, said in (
        ((made / 'data',), 'holds no painted image'),
        ((Manifest.load(made / 'data/manifest.csv').path(0),), 'was not painted by medsoft_nb'),
        ((f'{made}/base/manifest.csv:none',), "there is no image 'none'"),
        ((tmp_path / 'none.png',), 'is no image file, folder or manifest'),
        ((made / 'base', '--out', tmp_path / 'one.png'), 'Name a folder'),
        ((made / 'base/manifest.csv:synthetic-lytic-00000', '--out', tmp_path / 'one'), 'does not end with .png'),
    ):
        code, text = medsoft('replay', *words)
        assert code == 2 and said in ' '.join(text.split()), text
    assert list(tmp_path.iterdir()) == [] and read_lora(made / 'weights/lora').ranks == {2}


def test_a_batch_that_moved_alone_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_benchmark('phantom-tumour', 'data', n_healthy=2, n_diseased=3)
    m = Manifest.load('data/manifest.csv')
    made = copy_paste(m.where(label=HEALTHY), m.where(label=m.diseases), 'batch', ['lytic'], 1)
    shutil.move('batch', 'elsewhere/batch')
    shutil.move('data', 'elsewhere/images')
    with pytest.raises(ValueError, match=f'{made.df.source_id[0]}, into which .* is not found. .*--source'):
        replay(0, 'elsewhere/batch/manifest.csv')
    code, text = medsoft('replay', 'elsewhere/batch', '--source', 'elsewhere/images')
    assert code == 0 and 'equal' in text, text
