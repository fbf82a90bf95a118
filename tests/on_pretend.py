"""What runs on a pretended accelerator, and gives what the CPU gives; `test_devices` starts it where torch finds one.

Whatever is left behind on the CPU raises an error there (see `pretend`).
"""

from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from command import medsoft
from safetensors.torch import save_file
from medsoft_nb.core.devices import device_facts, pick_device
from medsoft_nb.core.files import read_json
from medsoft_nb.core.seeds import torch_generator
from medsoft_nb.data.manifest import HEALTHY
from medsoft_nb.data.splits import split
from medsoft_nb.evaluation.agreement import LesionNamer
from medsoft_nb.evaluation.classify import Classifier
from medsoft_nb.evaluation.explain import saliency
from medsoft_nb.evaluation.features import Extractor
from medsoft_nb.evaluation.quality import quality_table
from medsoft_nb.models.base import load_base, save_base
from medsoft_nb.models.controller import Controller, load_controller
from medsoft_nb.models.encoders import load_encoder
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.models.unet_files import unet_hash
from medsoft_nb.painting.generate import generate, GenerateConfig, with_lora
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.training.decoder import adapt_decoder, DecoderTraining
from medsoft_nb.training.stages import STAGES, Training
from medsoft_nb.training import trainer
from medsoft_nb.training.trainer import train

DEVICES = ('cpu', None)  # `None` is the best there is: the pretended one
SMALL = Training(steps=2, batch_size=2, rank=2, roi=32, variants=1, save_every=1, targets=('to_q', 'to_v'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A base of random weights, and phantoms that are split"
    folder = tmp_path_factory.mktemp('there')
    save_base(tiny_components(0), folder / 'base')
    manifest = make_benchmark('phantom-tumour', folder / 'data', n_healthy=8, n_diseased=18, per_patient=1)
    split(manifest, (0.5, 0.1, 0.4)).save(folder / 'data/manifest.csv')
    return folder


@pytest.fixture(scope='module')
def rows(folder):
    from medsoft_nb.data.manifest import Manifest

    return Manifest.load(folder / 'data/manifest.csv').where(split='train')


def window():
    "An image and a soft mask"
    image, mask = np.random.default_rng(0).random((64, 64), np.float32), np.zeros((64, 64), np.float32)
    mask[20:44, 20:44] = 1
    return image, mask


def test_the_accelerator_is_taken_where_none_is_named(monkeypatch):
    assert pick_device().type == 'pretend' and device_facts()['device_name'] == 'pretend'
    monkeypatch.setenv('MEDSOFT_DEVICE', 'cpu')
    assert pick_device().type == 'cpu' and pick_device('pretend').type == 'pretend'


def test_a_tensor_that_is_left_behind_is_an_error():
    "As is everything that a forgotten `.to(device)` leads to"
    net = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match='should be on pretend'):
        net.to('pretend')(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match='should be on pretend'):
        net.to('cpu')(torch.ones(1, 3, device='pretend'))
    with pytest.raises(RuntimeError, match='the generator should be on pretend'):
        torch.randn(3, device='pretend', generator=torch.Generator())
    with pytest.raises((RuntimeError, TypeError)):
        torch.ones(3, device='pretend').numpy()


@pytest.mark.parametrize('controller', [None, 'medsoft-tiny'])
def test_painting_gives_the_same_image(controller):
    images = []
    for device in DEVICES:
        pipe = MedSoftPipeline.from_pretrained(device=device).load_controller(controller)
        assert {part.device.type for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {pick_device(device).type}
        noise = torch_generator('image', 0)
        images += pipe('lytic lesion', *window(), num_inference_steps=2, roi=64, generator=noise).images
    np.testing.assert_allclose(*images, atol=1e-4)


def test_half_precision_paints_nearly_the_same(folder):
    "There is no autocast here: everything that meets agrees in precision by itself"
    images = []
    for dtype in ('float32', 'float16'):
        pipe = MedSoftPipeline.from_pretrained(folder / 'base', dtype=dtype)
        assert (str(pipe.unet.dtype), pipe.vae.dtype) == (f'torch.{dtype}', torch.float32)
        noise = torch_generator('image', 0)
        images += pipe('lytic lesion', *window(), num_inference_steps=2, roi=32, generator=noise).images
    np.testing.assert_allclose(*images, atol=0.05)


@pytest.mark.parametrize('full', [False, True])
def test_a_base_in_half_precision_trains_in_float32(full, folder, rows, monkeypatch):
    scales, step = [], trainer.take_step
    monkeypatch.setattr(trainer, 'take_step', lambda *given: scales.append(given[-1]) or step(*given))
    base = load_base(folder / 'base', 'float16')
    controller = Controller.new(load_encoder(dtype='float16'), base['unet'], layers=1)
    out = folder / f'half-{full}'
    made = train(base, rows, out, SMALL.replace(stage='2b', steps=1, full=full), controller)
    assert read_json(out / 'training.json')['device']['dtype'] == 'float16'
    assert scales == [1 if full else trainer.HALF_SCALE]  # a U-Net that is trained itself is float32
    assert np.isfinite(pd.read_csv(out / 'loss.csv').loss).all()
    pipe = MedSoftPipeline.from_pretrained(folder / 'base', dtype='float16')
    pipe = pipe.load_unet(made.unet) if full else pipe
    assert pipe.unet.device.type == 'pretend' and pipe.unet.dtype == torch.float16
    image = pipe.load_controller(made.controller)('lytic', *window(), num_inference_steps=1, roi=32).images[0]
    assert np.isfinite(image).all()


def test_parts_come_to_the_accelerator_one_at_a_time(folder):
    "`enable_model_cpu_offload`, with a LoRA too: the same image, and nothing stays there"
    lora = {'A': torch.full((2, 32, 1, 1), 0.5), 'B': torch.full((32, 2, 1, 1), 0.5)}
    lora = {f'unet.mid_block.attentions.0.proj_in.lora_{k}.weight': v for k, v in lora.items()}
    save_file(lora, folder / 'one.safetensors')
    images = {}
    for device in ('cpu', 'pretend'):
        pipe = MedSoftPipeline(**tiny_components(0))
        if device == 'pretend':
            pipe.enable_model_cpu_offload(device=device)
        for name, painter in (('plain', pipe), ('LoRA', with_lora(pipe, folder / 'one.safetensors'))):
            noise = torch.Generator().manual_seed(0)
            painted = painter('lytic lesion', *window(), num_inference_steps=2, roi=32, generator=noise).images[0]
            images[device, name] = painted
            assert {part.device.type for part in (painter.unet, painter.vae, painter.text_encoder)} == {'cpu'}
    for name in ('plain', 'LoRA'):
        assert abs(images['cpu', name] - images['pretend', name]).max() < 1e-3
    assert abs(images['cpu', 'plain'] - images['cpu', 'LoRA']).max() > 1e-2


@pytest.mark.parametrize('stage', STAGES)
def test_every_stage_trains_the_same(stage, folder, rows):
    losses = []
    for device in DEVICES:
        base = load_base(folder / 'base', device=device)
        encoder = load_encoder(device=device)
        controller = Controller.new(encoder, base['unet'], layers=1) if STAGES[stage].needs_controller else None
        out, used = folder / f'{stage}-{device}', rows.where(label=HEALTHY) if STAGES[stage].healthy else rows
        made = train(base, used, out, SMALL.replace(stage=stage, steps=1), controller)
        assert read_json(out / 'training.json')['device']['device'].startswith(pick_device(device).type)
        losses.append(pd.read_csv(out / 'loss.csv').loss)
        if made.controller:
            load_controller(made.controller)
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_a_training_that_was_broken_off_goes_on(folder, rows, monkeypatch):

    real, done = trainer.take_step, []

    def take_step(*args):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(real(*args))
        return done[-1]

    base = load_base(folder / 'base')
    monkeypatch.setattr(trainer, 'take_step', take_step)
    with pytest.raises(KeyboardInterrupt):
        train(base, rows, folder / 'broken', SMALL)
    monkeypatch.setattr(trainer, 'take_step', real)
    train(base, rows, folder / 'broken', SMALL)
    train(base, rows, folder / 'whole', SMALL)
    losses = [pd.read_csv(folder / name / 'loss.csv').loss for name in ('broken', 'whole')]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_decoder_is_adapted_the_same(folder, rows, monkeypatch):
    config, psnr = DecoderTraining(steps=1, batch_size=1, side=16), []
    for device in DEVICES:
        monkeypatch.setenv('MEDSOFT_DEVICE', device or '')
        base = adapt_decoder(folder / 'base', rows.where(label=HEALTHY), folder / f'base-{device}', config)
        psnr.append(read_json(base / 'training.json')['psnr']['after'])
    np.testing.assert_allclose(*psnr, rtol=1e-3)


def test_all_weights_of_a_unet_can_be_trained(folder, rows):
    made = train(load_base(folder / 'base'), rows, folder / 'full', SMALL.replace(full=True, steps=1))
    assert list(made.unet.glob('*.safetensors'))


def test_batches_are_painted_with_what_was_trained(folder, rows):
    base = load_base(folder / 'base')
    controller = Controller.new(load_encoder(), base['unet'], layers=1)
    saving = SMALL.replace(stage='2b', steps=1, accumulate=2, ema=0.9)
    made = train(base, rows, folder / 'for-painting', saving, controller)
    healthy, diseased = rows.where(label=HEALTHY), rows.where(label=rows.diseases)
    images = []
    for device in DEVICES:
        pipe = MedSoftPipeline.from_pretrained(folder / 'base', device=device)
        config = GenerateConfig(n_per_label=1, steps=2, roi=32)
        out = folder / f'made-{device}'
        images.append(generate(pipe, healthy, diseased, out, ['lytic'], config, made.lora, made.controller).image(0))
    assert abs(images[0].astype(int) - images[1]).max() <= 1


def test_the_classifier_answers_the_same(rows, tmp_path):
    answers = []
    for device in DEVICES:
        classifier = Classifier(device=device, steps=3, batch_size=4, image_size=32, augment=True).fit(rows)
        again = Classifier.load(classifier.save(tmp_path / 'classifier.pt'), device)
        np.testing.assert_array_equal(classifier.decision_function(rows), again.decision_function(rows))
        shown = saliency(classifier, rows.rows(range(2)), copies=2)
        answers.append([classifier.decision_function(rows), classifier.embed(rows), shown])
    for here, there in zip(*answers):
        np.testing.assert_allclose(here, there, rtol=1e-2, atol=1e-4)


def test_lesions_are_named(rows):
    healthy, diseased = rows.where(label=HEALTHY), rows.where(label=rows.diseases)
    names = [LesionNamer(2, 4, device=device).fit(diseased, healthy).predict(diseased) for device in DEVICES]
    np.testing.assert_array_equal(*names)


@pytest.mark.parametrize('name', ['efficientnet-lite0', 'medsoft-tiny'])
def test_features_are_the_same(name):
    images = list(np.random.default_rng(0).random((3, 64, 64), np.float32))
    np.testing.assert_allclose(*[Extractor(name, device=device).features(images) for device in DEVICES], atol=1e-3)


def test_quality_is_measured(rows):
    diseased = rows.where(label=rows.diseases)
    table = quality_table({'copies': diseased}, diseased, extractor='medsoft-tiny')
    assert np.isfinite(table.value).all()


def test_commands_run(folder):
    data, base = folder / 'data/manifest.csv', folder / 'base'
    small = ['--base', base, '--roi', 32]
    words = ['--steps', 1, '--batch-size', 2, '--full', '--dtype', 'bfloat16', '--out', folder / 'trained']
    code, text = medsoft('train', data, *small, *words)
    assert code == 0, text
    facts = read_json(folder / 'trained/training.json')
    assert facts['device']['device'].startswith('pretend') and facts['device']['dtype'] == 'bfloat16'
    assert facts['config']['learning_rate'] == 1e-5
    words = ['--steps', 1, '-n', 1, '--labels', 'lytic', '--unet', folder / 'trained', '--resolution', 64]
    code, text = medsoft('generate', data, *small, *words, '--dtype', 'float16', '--out', folder / 'painted')
    assert code == 0, text
    assert read_json(folder / 'painted/settings.json')['unet'] == unet_hash(folder / 'trained')
    small_test = ['--steps', 1, '--seeds', 1, '--device', 'cpu']
    code, text = medsoft('classify', data, *small_test, '--out', folder / 'tables')
    assert code == 0, text
    code, text = medsoft('train', data, *small, '--device', 'cuda:7', '--out', folder / 'nowhere')
    assert code == 2 and "there is no device 'cuda:7' here" in text and not (folder / 'nowhere').exists()
