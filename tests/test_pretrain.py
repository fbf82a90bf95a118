"The notebook that makes the shipped base runs from phantoms to a model that loads."

import json
from pathlib import Path
import pandas as pd, papermill, pytest, torch
from medsoft_nb.core.files import data_path
from medsoft_nb.models.base import load_base, weight_hashes
from medsoft_nb.models.controller import load_controller
from medsoft_nb.models.encoders import load_encoder
from medsoft_nb.models.seen import read_seen
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark

pytestmark = pytest.mark.trains
root = Path(__file__).parent.parent


def execute(name, folder, settings):
    "Run a notebook of `nbs/experiments`, which leaves its results in `folder`"
    notebook, options = str(root / f'nbs/experiments/{name}.ipynb'), dict(progress_bar=False, kernel_name='python3')
    papermill.execute_notebook(
        notebook, str(folder / 'done.ipynb'), settings | dict(run=str(folder / 'run')), **options
    )


def test_pretrain_notebook_gives_a_base(tmp_path):
    settings = dict(
        images=12, captioned=12, windows=4, measured=2, vae_steps=1, clip_steps=1, unet_steps=2, sample_steps=1
    )
    execute('pretrain', tmp_path, settings)
    base = load_base(tmp_path / 'run/model')
    assert base['unet'].config.in_channels == 9 and base['scheduler'].config.prediction_type == 'v_prediction'
    assert set(json.loads((tmp_path / 'run/measured.json').read_text())) >= {
        'psnr_db_mr',
        'loss_prompt',
        'names_disease',
    }
    MedSoftPipeline.from_pretrained(tmp_path / 'run/model')


def test_it_goes_on_from_a_base_with_images_of_patients(tmp_path):
    "Healthy images of training patients alone; the encoder stays what it was"
    m = make_benchmark('phantom-tumour', tmp_path / 'data', n_healthy=6, n_diseased=3, per_patient=1)
    m.assign(split=['train', 'test'] * 4 + ['train']).save(tmp_path / 'data/manifest.csv')
    settings = dict(images=4, windows=4, measured=1, vae_steps=1, unet_steps=2, sample_steps=1)
    settings |= dict(start='medsoft-tiny', real=str(tmp_path / 'data/manifest.csv'))
    execute('pretrain', tmp_path, settings)
    assert json.loads((tmp_path / 'run/measured.json').read_text())['psnr_db_real'] > 20
    assert read_seen(tmp_path / 'run/model').patients == {'mr': ['healthy']}
    made, shipped = (load_encoder(name).model for name in (tmp_path / 'run/model/encoder', 'medsoft-tiny'))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), shipped.parameters()))
    distance = [
        (a - b).abs().max().item()
        for a, b in zip(load_base(tmp_path / 'run/model')['unet'].parameters(), load_base()['unet'].parameters())
    ]
    assert 0 < max(distance) < 0.1


def test_shipped_weights_are_small_and_of_half_precision():
    folder = data_path('models', 'medsoft-tiny')
    files = [folder / f for f in weight_hashes(folder)]
    assert len(files) == 6 and sum(f.stat().st_size for f in files) < 40 * 2**20
    from safetensors import safe_open

    for f in files:
        with safe_open(f, 'pt') as s:
            assert {s.get_tensor(k).dtype for k in s.keys()} <= {torch.float16, torch.int64}, f


def test_controller_notebook_gives_a_controller(tmp_path):
    "The notebook that made the shipped MSC and adapter, at its smallest"
    settings = dict(
        images=10, held_out=1, steps_1a=2, steps_1b=1, steps_2a=1, steps_2b=1, batch_size=4, sample_steps=2
    )
    execute('controller', tmp_path, settings)
    made = load_controller(tmp_path / 'run/controller')
    assert made.encoder.name == 'medsoft-tiny'
    numbers = pd.read_csv(tmp_path / 'run/cosines.csv')
    assert set(numbers.stage) == {'1a', '1b', '2a', '2b'} and len(numbers) == 4 * 7
    assert len(pd.read_csv(tmp_path / 'run/1a/loss.csv')) == 2  # the injected value, not the default
