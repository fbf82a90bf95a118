"""The figure of membership inference: from the command into the card of an export, refused where it is not true."""

import json
from types import SimpleNamespace
import numpy as np, pytest, torch
from command import medsoft
from medsoft_nb.core.files import read_json
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.evaluation.membership import lesion_losses, MembershipSettings
from medsoft_nb.evaluation.membership_figure import CONTROL, MEMBERS, membership_table
from medsoft_nb.lesions.soft import soften
from medsoft_nb.models.base import save_base
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.painting.inputs import cut_input, PaintInput, stack_windows
from medsoft_nb.painting.latents import to_latents
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark

TRAIN = '--steps 1 --rank 2 --roi 32 --batch-size 2'.split()


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A base, 10 training and 5 held-out patients with lesions, a LoRA, and a batch that it painted"
    folder = tmp_path_factory.mktemp('membership')
    save_base(tiny_components(0), folder / 'base')
    real = make_benchmark('phantom-tumour', folder / 'ph', n_healthy=3, n_diseased=15, per_patient=1, seed=0)
    split = np.repeat(['train', 'test', 'train', 'test'], [2, 1, 10, 5])
    Manifest(real.df.assign(split=split), real.root).save(folder / 'ph/manifest.csv')
    base, real = ('--base', folder / 'base'), folder / 'ph/manifest.csv'
    code, said = medsoft('train', real, '--out', folder / 'lora', *base, *TRAIN)
    assert code == 0, said
    paint = '--labels lytic -n 2 --steps 1 --roi 32'.split()
    code, said = medsoft('generate', real, '--out', folder / 'batch', *base, '--lora', folder / 'lora', *paint)
    assert code == 0, said
    return folder


@pytest.fixture(scope='module')
def measured(made):
    words = ('--base', made / 'base', '--lora', made / 'lora', '--out', made / 'batch')
    code, said = medsoft('membership', made / 'ph/manifest.csv', *words)
    assert code == 0, said
    return said


@pytest.fixture(autouse=True)
def salt(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('MEDSOFT_SALT', str(tmp_path_factory.mktemp('salt') / 'salt'))


def test_the_figure_comes_into_the_card(made, measured, tmp_path):
    record = read_json(made / 'batch/membership.json')
    assert record['patients'] == dict(training=10, held_out=5) and record['lacking'] == []
    assert record['settings']['roi'] == 32
    rows = [row for row in record['measured'] if row['score'] == 'base less fine-tuned']
    assert [(row['comparison'], row['first'], row['second']) for row in rows] == [(MEMBERS, 10, 5), (CONTROL, 5, 5)]
    assert all(0 <= row['lo'] <= row['value'] <= row['hi'] <= 1 for row in record['measured'])
    assert medsoft('verify', made / 'batch')[0] == 0
    code, said = medsoft('export', made / 'batch/manifest.csv', '--out', tmp_path / 'share')
    assert code == 0, said
    card = (tmp_path / 'share/README.md').read_text()
    figure = next(line for line in measured.splitlines() if line.startswith('Membership inference: '))
    assert figure.removeprefix('Membership inference: ') in card and f'AUC {rows[0]["value"]:.2f}' in card


def test_a_batch_goes_on_beside_the_figure(made, measured):
    before = (made / 'batch/membership.json').read_bytes()
    words = '--labels lytic -n 2 --steps 1 --roi 32'.split()
    given = ('--base', made / 'base', '--lora', made / 'lora', '--out', made / 'batch')
    code, said = medsoft('generate', made / 'ph/manifest.csv', *given, *words)
    assert code == 0 and (made / 'batch/membership.json').read_bytes() == before, said
    assert medsoft('verify', made / 'batch')[0] == 0


@pytest.mark.parametrize(
    'change', [dict(weights=dict(lora='0' * 16)), dict(measured=[dict(value=None)]), dict(weights=3)]
)
def test_a_figure_that_is_not_of_these_weights_is_refused(change, made, measured, tmp_path):
    record = read_json(made / 'batch/membership.json')
    (tmp_path / 'other.json').write_text(json.dumps(record | change))
    given = ('--out', tmp_path / 'share', '--membership', tmp_path / 'other.json')
    code, said = medsoft('export', made / 'batch/manifest.csv', *given)
    assert code == 2 and 'other.json' in said and 'Traceback' not in said
    assert not (tmp_path / 'share').exists()


def test_sides_that_are_not_true_are_refused(made, tmp_path):
    real = Manifest.load(made / 'ph/manifest.csv')
    for name, row, split in (('leak', 12, 'test'), ('stranger', 13, 'train')):  # a training patient, and another one
        splits = [split if i == row else old for i, old in enumerate(real.df.split)]
        path = real.assign(split=splits).save(made / f'ph/{name}.csv')
        words = ('--base', made / 'base', '--lora', made / 'lora', '--out', tmp_path / name)
        code, said = medsoft('membership', path, *words)
        assert code == 2 and 'the weights' in said and 'Traceback' not in said
        assert not (tmp_path / name).exists()


def memorise(pipe, latents):
    "The pipeline's U-Net becomes the ideal denoiser of these latents: it knows them by heart, and nothing else"
    alphas = pipe.scheduler.alphas_cumprod

    def forward(x, t, text):
        z, clean, noise = x[:, :4], alphas[t][:, None, None, None].sqrt(), (1 - alphas[t])[:, None, None, None].sqrt()
        nearest = torch.cdist((z / clean).flatten(1), latents.flatten(1)).argmin(1)
        return SimpleNamespace(sample=(z - clean * latents[nearest]) / noise)

    pipe.unet.forward = forward


def test_a_model_that_knows_its_images_by_heart_is_told(made):
    real = Manifest.load(made / 'ph/manifest.csv')
    lesions, settings = real.where(label=real.diseases), MembershipSettings(roi=32, draws=2, times=(0.001, 0.01))
    base, tuned = (MedSoftPipeline(**tiny_components(0)) for _ in range(2))
    member = (lesions.df.split == 'train').to_numpy()
    softened = [soften(lesions.lesion_mask(i), settings.ramp) for i in range(len(lesions))]
    windows = [cut_input(base, PaintInput('', lesions.image(i), soft), 32) for i, soft in enumerate(softened)]
    memorise(tuned, to_latents(base, stack_windows(windows, 'base_image')[0])[torch.tensor(member)])
    losses = lesions.df[['patient_id']].assign(member=member)
    for name, pipe in dict(base=base, tuned=tuned).items():
        losses[name] = lesion_losses(pipe, lesions, settings)
    table, lacking = membership_table(losses)
    value = table.set_index(['comparison', 'score']).value
    assert not lacking and value[MEMBERS, 'base less fine-tuned'] > 0.95 > value[CONTROL, 'base less fine-tuned']
