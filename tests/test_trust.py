"""Nothing lost, nothing wrong in silence: flipped bits, writes that fail, processes that are killed.

`MEDSOFT_KILLS=60 pytest tests/test_trust.py -k killed` kills as many trainings of all stages, batches, imports and
exports as it says, each at another write; without it, two each of a LoRA's training, a batch, an import, an export.
"""

import errno
import math
import os
import shutil
import signal
from functools import partial

import numpy as np
import pytest
import medsoft_nb.core.files as files
from command import medsoft
from copies import copies
from medsoft_nb.core.images import read_image
from medsoft_nb.core.states import load_newest, save_state
from medsoft_nb.core.sums import changed_files
from medsoft_nb.data.importing import import_sources, Pixels, Source
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.evaluation.export import export
from medsoft_nb.models.controller import Controller, load_controller
from medsoft_nb.models.encoders import load_encoder
from medsoft_nb.models.lora_files import read_lora
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.models.unet_files import load_unet
from medsoft_nb.painting.generate import generate, GenerateConfig
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.training.stages import STAGES, Training
from medsoft_nb.training.trainer import train

KILLS = int(os.environ.get('MEDSOFT_KILLS', 2))
TRAINING = Training(steps=2, batch_size=2, rank=2, roi=32, variants=1, save_every=1)
BATCH = GenerateConfig(n_per_label=2, steps=1, roi=32, batch_size=1)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_benchmark('phantom-tumour', tmp_path_factory.mktemp('data') / 'ph', n_healthy=2, n_diseased=3, seed=0)


@pytest.fixture(scope='module')
def lesions(tmp_path_factory):
    "Images with a lesion, each of a patient of its own"
    made = make_benchmark('phantom-tumour', tmp_path_factory.mktemp('l') / 'ph', 0, 9, per_patient=1, seed=1)
    return made.where(label=made.diseases)


def training(data, cache, out):
    train(tiny_components(0), data, out, TRAINING, cache=cache)


def batch(data, cache, out, config=BATCH):
    pipe = MedSoftPipeline(**tiny_components(0))
    pipe.set_progress_bar_config(disable=True)
    generate(pipe, data.where(label=HEALTHY), data.where(label=data.diseases), out, ['lytic'], config)


def single(data, cache, out):
    batch(data, cache, out, BATCH.replace(n_per_label=1))


@pytest.fixture(scope='module')
def make(data, tmp_path_factory):
    "A tiny training and a tiny batch, by name: functions of a folder"
    cache = tmp_path_factory.mktemp('cache')
    return {job.__name__: partial(job, data, cache) for job in (training, batch, single)}


@pytest.fixture(scope='module')
def whole(make, tmp_path_factory):
    "What they leave when nothing happens"
    folder = tmp_path_factory.mktemp('whole')
    for name, job in make.items():
        job(folder / name)
    return folder


def content(folder):
    "What a run comes to: its checksums, without what tells of time"
    return (folder / 'SHA256SUMS').read_text()


def flip(file, k):
    "One other bit of a file"
    r, changed = np.random.default_rng(k), bytearray(file.read_bytes())
    changed[r.integers(len(changed))] ^= 1 << int(r.integers(8))
    file.write_bytes(changed)


@pytest.mark.parametrize('k', range(8))
def test_flipped_bits_are_refused(k, whole, data, tmp_path):
    "Of a checkpoint, of a LoRA, of a U-Net and a controller"
    save_state(tmp_path / 'state.pt', dict(weights=tiny_components(0)['unet'].conv_in.weight.data, step=3))
    flip(tmp_path / 'state.pt', k)
    with pytest.raises(ValueError, match='state.pt was cut or changed after it was written'):
        load_newest(tmp_path / 'state.pt')
    shutil.copytree(whole / 'training', tmp_path / 'lora')
    lora = next((tmp_path / 'lora').glob('*.safetensors'))
    flip(lora, k)
    with pytest.raises(ValueError, match='was changed since its training'):
        read_lora(lora)


@pytest.fixture(scope='module')
def others(data, tmp_path_factory):
    "A full training, and one of a controller"
    folder, base = tmp_path_factory.mktemp('others'), tiny_components(0)
    train(base, data, folder / 'full', TRAINING.replace(steps=1, full=True))
    controller = Controller.new(load_encoder(), base['unet'], layers=1)
    train(base, data, folder / 'msc', TRAINING.replace(steps=1, stage='1a'), controller)
    return folder


@pytest.mark.parametrize('k', range(8))
def test_flipped_bits_of_networks_are_refused(k, others, tmp_path):
    shutil.copytree(others / ('full' if k % 2 else 'msc'), tmp_path / 'run')
    weights = sorted((tmp_path / 'run').rglob('*.safetensors'))
    flip(weights[k // 2 % len(weights)], k)
    with pytest.raises(ValueError, match='was changed since its training'):
        if k % 2:
            load_unet(tmp_path / 'run', tiny_components(0)['unet'])
        else:
            load_controller(tmp_path / 'run/controller')


def count_writes(job, monkeypatch, fail=None):
    "How often a job puts a file in its place; write number `fail` finds a full disk"
    calls, real = [], os.replace

    def replace(source, target):
        calls.append(target)
        if len(calls) == fail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, 'replace', replace)
        job()
    return len(calls)


@pytest.mark.parametrize('name', ['training', 'single'])
def test_every_write_fails_once(name, make, whole, tmp_path, monkeypatch):
    "The error names the file and bytes, nothing half-written stays, and the next run ends as if nothing had been"
    job = make[name]
    n = count_writes(lambda: job(tmp_path / 'counted'), monkeypatch)
    assert n >= 5
    for k in range(1, n + 1):
        out = tmp_path / str(k)
        with pytest.raises(OSError, match=r'The disk|the disk of .* is full: [\d,]+ bytes wanted'):
            count_writes(lambda: job(out), monkeypatch, fail=k)
        assert not list(out.rglob('.*.tmp*'))
        job(out)
        assert changed_files(out) == []
        assert content(out) == content(whole / name)


def test_a_line_is_whole_or_not_there(tmp_path):
    "Where the system takes a part of it only"
    resource = pytest.importorskip('resource')
    file, limits = tmp_path / 'loss.csv', resource.getrlimit(resource.RLIMIT_FSIZE)
    files.append_text(file, 'step,loss\n')
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (14, limits[1]))
    try:
        with pytest.raises(OSError):
            files.append_text(file, '1,0.123456789\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert file.read_text() == 'step,loss\n'


def run_until(job, out, k):
    "Run a job, and kill this process at its write number `k`"
    calls, real = [], os.replace

    def replace(source, target):
        calls.append(target)
        if len(calls) == k:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    files.os.replace = replace
    job(out)


def killed(job, out, k):
    "Run a job in a process of its own, which is killed at its write number `k`; whether it got so far"
    process = copies.Process(target=run_until, args=(job, out, k))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize('name', ['training', 'single'])
def test_a_killed_run_goes_on(name, make, whole, tmp_path):
    "Whatever write it was killed at: the result is the same, and no temporary file is left"
    for k in range(1, KILLS + 1):
        out = tmp_path / str(k)
        was_killed = killed(make[name], out, 2 * k - 1)
        make[name](out)
        assert changed_files(out) == []
        assert content(out) == content(whole / name)
        assert not list(out.rglob('.*.tmp*'))
        if not was_killed:
            break


def stage(name, data, cache, out):
    "A training of a stage, or of the whole U-Net, with as many steps as give each kill another write"
    base, full = tiny_components(0), name == 'full'
    controller = (
        None if full or not STAGES[name].needs_controller else Controller.new(load_encoder(), base['unet'], layers=1)
    )
    settings = TRAINING.replace(stage='lora' if full else name, full=full, steps=max(2, KILLS // 6))
    rows = data if full or not STAGES[name].healthy else data.where(label=HEALTHY)
    train(base, rows, out, settings, controller, cache=cache)


def large_batch(data, cache, out):
    batch(data, cache, out, BATCH.replace(n_per_label=max(2, KILLS // 3)))


MANY = {name: partial(stage, name) for name in (*STAGES, 'full')} | dict(batch=large_batch)


@pytest.mark.skipif(KILLS <= 2, reason='it takes minutes: MEDSOFT_KILLS=60 runs it')
@pytest.mark.parametrize('name', MANY)
def test_many_killed_runs_go_on(name, data, tmp_path, monkeypatch):
    "Each at another write, from the first to the last; trainings share the kills among their stages"
    job, trainings = partial(MANY[name], data, tmp_path / 'cache'), len(MANY) - 1
    job(tmp_path / 'first')  # fills the cache, which all others share
    n = count_writes(lambda: job(tmp_path / 'whole'), monkeypatch)
    moments = np.linspace(1, n, KILLS if name == 'batch' else math.ceil(KILLS / trainings)).round().astype(int)
    assert len(set(moments)) == len(moments)
    for k in moments:
        out = tmp_path / str(k)
        assert killed(job, out, k)
        job(out)
        assert changed_files(out) == [] and not list(out.rglob('.*.tmp*'))
        assert content(out) == content(tmp_path / 'whole')
        shutil.rmtree(out)


def imported(real, out):
    "As many images as give twenty writes, in this process"
    rows = real.df[['image_id', 'patient_id', 'label', 'modality', 'plane', 'origin']].to_dict('records')
    sources = [Source(row, partial(pixels, real.path(i), real.path(i, 'lesion_mask'))) for i, row in enumerate(rows)]
    import_sources(sources, out, workers=1)


def exported(real, out):
    export(real, out)


FOLDERS = dict(imported=imported, exported=exported)


def pixels(image, mask):
    "An image and the mask of its lesion, as an importer reads them"
    return Pixels(read_image(image), lesion_mask=read_image(mask))


def everything(folder):
    "Every file of a folder, hidden ones too, but for the lock"
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file() and p.name != '.lock'}


@pytest.mark.parametrize('name', FOLDERS)
def test_a_killed_import_or_export_ends_as_if_nothing_had_been(name, lesions, tmp_path, monkeypatch):
    "It goes on, or says that the folder is incomplete; nothing is left of the one that was killed"
    monkeypatch.setenv('MEDSOFT_SALT', str(tmp_path / 'salt'))
    job = partial(FOLDERS[name], lesions)
    n, whole = count_writes(lambda: job(tmp_path / 'whole'), monkeypatch), everything(tmp_path / 'whole')
    assert n >= 20 and whole
    for k in dict.fromkeys(np.linspace(1, n, min(KILLS, n)).round().astype(int)):
        out = tmp_path / f'killed-{k}'
        assert killed(job, out, k)
        assert not (out / 'manifest.csv').exists()  # it comes last: nobody takes a part for the whole
        try:
            job(out)
        except FileExistsError as error:
            assert name == 'exported' and 'is incomplete' in str(error)
            shutil.rmtree(out)
            job(out)
        assert everything(out) == whole
        assert not [path for path in out.rglob('.*') if path.name != '.lock']


def test_verify_names_what_changed(whole, tmp_path):
    "A flipped bit, a file that is gone, and one that is new"
    for name in ('training', 'batch'):
        code, said = medsoft('verify', whole / name)
        assert (code, said.count('\n')) == (0, 1), said
        run = tmp_path / name
        shutil.copytree(whole / name, run)
        names = sorted(line.partition('  ')[2] for line in (run / 'SHA256SUMS').read_text().splitlines())
        flip(run / names[0], 0)
        (run / names[1]).unlink()
        (run / 'new.txt').touch()
        code, said = medsoft('verify', run)
        assert code == 1
        assert said.splitlines() == sorted(
            [f'changed: {names[0]}', f'gone: {names[1]}', 'without record: new.txt'], key=lambda s: s.split(': ')[1]
        )
    code, said = medsoft('verify', tmp_path)
    assert code == 1 and 'training/new.txt' in said
    code, said = medsoft('verify', whole.parent / 'none')
    assert code == 2 and 'Traceback' not in said


def damage(out, kind):
    "Harm a finished batch"
    images = sorted((out / 'images').iterdir())
    table = out / 'manifest.csv'
    text = table.read_text()
    if kind == 'gone':
        images[0].unlink()
    elif kind == 'cut':
        images[0].write_bytes(images[0].read_bytes()[:-5])
    elif kind == 'exchanged':
        images[0].write_bytes(images[1].read_bytes())
    elif kind == 'mask':
        flip(next((out / 'soft').iterdir()), 1)
    elif kind == 'row cut':
        table.write_text(text[:-40])
    elif kind == 'row twice':
        table.write_text(text + text.splitlines(keepends=True)[-1])


@pytest.mark.parametrize('kind', ['gone', 'cut', 'exchanged', 'mask', 'row cut', 'row twice'])
def test_a_damaged_batch_is_repaired(kind, make, whole, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(whole / 'batch', out)
    damage(out, kind)
    make['batch'](out)
    assert changed_files(out) == []
    assert len(Manifest.load(out / 'manifest.csv')) == 2


def test_a_batch_without_settings_is_refused(make, whole, tmp_path):
    shutil.copytree(whole / 'batch', tmp_path / 'out')
    (tmp_path / 'out/settings.json').unlink()
    with pytest.raises(FileExistsError, match='no whole settings.json'):
        make['batch'](tmp_path / 'out')


def test_a_folder_that_goes_away(make, tmp_path, monkeypatch):
    "A disk that is unmounted in the middle of a batch"
    import medsoft_nb.painting.generate as module

    out, real, calls = tmp_path / 'out', module.paint_lesions, []

    def paint(*args):
        calls.append(1)
        if len(calls) == 2:
            out.rename(tmp_path / 'away')
        return real(*args)

    monkeypatch.setattr(module, 'paint_lesions', paint)
    with pytest.raises(OSError, match='went away while it was painted into'):
        make['batch'](out)
