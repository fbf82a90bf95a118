"The whole experiment at the smallest size, through the command, and once more."

import shutil
from importlib import import_module
from pathlib import Path
import pandas as pd, papermill, pytest
from copies import Copy, MEDSOFT

pytestmark = [pytest.mark.slow, pytest.mark.trains]

profile = '''
title: Smallest
seeds: [3]
arms: [base, lora-hard, lora-smis, lora-hard+msc, lora-smis+msc]
prepare: {benchmark_healthy: 24, benchmark_diseased: 36, n_diseased: 6}
finetune: {base: BASE, steps: 3, batch_size: 2, roi: 32, controller: '', msc_steps: 1}
generate: {base: BASE, roi: 32, steps: 2}
quality: {namer_steps: 2}
classify: {steps: 4, batch_size: 4}
report: {examples: 2}
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A run of the real notebooks on a base of random weights"
    from medsoft_nb.models.base import save_base
    from medsoft_nb.models.tiny import tiny_components

    folder = tmp_path_factory.mktemp('reproduce')
    save_base(tiny_components(0), folder / 'base')
    (folder / 'smallest.yml').write_text(profile.replace('BASE', str(folder / 'base')))
    return folder


def medsoft(folder, *words):
    "Exit status, and what is printed as an error"
    process = Copy(MEDSOFT, *words, cwd=folder)
    error = process.communicate()[1]
    return process.returncode, error


@pytest.fixture(scope='module')
def run(folder):
    code, error = medsoft(folder, 'reproduce', '--profile', 'smallest.yml', '--out', 'run')
    assert code == 0, error
    return folder / 'run'


def test_it_leaves_tables_figures_and_a_report(run):
    aucs = pd.read_csv(run / 'tables/auc.csv')
    assert {
        'real-only',
        'classical',
        'duplicate-real',
        'copy-paste',
        'base',
        'lora-hard',
        'lora-smis',
        'lora-hard+msc',
        'lora-smis+msc',
        'lora-smis+healthy',
        'oracle',
    } == set(aucs.arm)
    assert ((aucs.lo <= aucs.value) & (aucs.value <= aucs.hi)).all()
    for stem in ('auc', 'gain', 'quality', 'data', 'agreement', 'ablation', 'effects'):
        assert all((run / f'tables/{stem}{end}').stat().st_size for end in ('.md', '.tex', '.csv'))
    for stem in ('auc', 'kid', 'qualitative', 'confusion'):
        assert all((run / f'figures/{stem}{end}').stat().st_size for end in ('.png', '.pdf'))
    page = (run / 'report.html').read_text()
    assert 'oracle' in page and 'data:image/png' in page and '<script src="http' not in page
    order = [page.index(text) for text in ('What was run', 'Against the best control', 'In short')]
    assert order == sorted(order)


def test_the_settings_of_the_profile_were_used(run):
    loss = pd.read_csv(run / 'seed-3/trained/lora/loss.csv')
    assert len(loss) == 3  # the notebook's default is 4
    assert [p.name for p in sorted((run / 'seed-3/trained/lora-msc').iterdir()) if p.is_dir()] == [
        '1a',
        '1b',
        '2a',
        'controller',
    ]  # a new controller goes through all stages
    assert set(pd.read_csv(run / 'tables/ablation.csv').arm) == {
        'lora-hard',
        'lora-smis',
        'lora-hard+msc',
        'lora-smis+msc',
    }


def test_nothing_outside_the_masks_was_changed(run):
    quality = pd.read_csv(run / 'tables/quality.csv')
    changed = quality[quality.metric == 'background_changed']
    assert len(changed) >= 4 and (changed.value == 0).all() and (changed.hi == 0).all()


def test_a_finished_run_does_nothing_the_second_time(folder, run):
    before = {
        p: p.stat().st_mtime_ns
        for p in run.rglob('*')
        if p.is_file() and p.name not in ('run.json', 'report.html', '.lock', 'SHA256SUMS')
    }
    assert medsoft(folder, 'reproduce', '--profile', 'smallest.yml', '--out', 'run')[0] == 0
    assert before == {
        p: p.stat().st_mtime_ns
        for p in run.rglob('*')
        if p.is_file() and p.name not in ('run.json', 'report.html', '.lock', 'SHA256SUMS')
    }


def test_a_manifest_of_ones_own(folder, run, monkeypatch):
    "Swaps the data, which stay where they are; the same images and settings give the same weights and images"
    from medsoft_nb.data.manifest import Manifest
    from medsoft_nb.running.profile import STEPS, Workflow
    from medsoft_nb.running.reproduce import reproduce

    kept = ('title', 'seeds', 'prepare', 'finetune', 'generate')
    lines = [line for line in profile.strip().splitlines() if line.startswith(kept)]
    text = '\n'.join([*lines, 'arms: [lora-smis]']).replace('BASE', str(folder / 'base'))
    (folder / 'own.yml').write_text(text)
    manifest = run / 'data/phantom-tumour/manifest.csv'
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # as in `medsoft`: sums depend on the number of threads
    reproduce(folder / 'own.yml', folder / 'own', manifest=manifest, workflow=Workflow(STEPS[:3]))
    assert not (folder / 'own/data/phantom-tumour').exists()
    for path in ('data/manifest.csv', 'seed-3/trained/lora/loss.csv', 'seed-3/synthetic/lora-smis/manifest.csv'):
        there, here = (
            pd.read_csv(root / path).drop(columns=['image', 'lesion_mask', 'structures'], errors='ignore')
            for root in (run, folder / 'own')
        )
        pd.testing.assert_frame_equal(there, here)
    there, here = (Manifest.load(root / 'seed-3/synthetic/lora-smis/manifest.csv') for root in (run, folder / 'own'))
    assert len(here) and all((there.image(i) == here.image(i)).all() for i in range(len(here)))


def test_a_choice_of_candidates_is_measured(run, tmp_path, monkeypatch, capsys):
    "`benchmarks/choice.py` on the finished run; what is done is not done again"
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / 'benchmarks')
    choice, out = import_module('choice'), tmp_path / 'choice'
    given = [str(run), '--out', str(out), '--times', '2', '--critic-steps', '2']
    choice.main(given)
    aucs, counts = (pd.read_csv(out / f'{name}.csv') for name in ('auc', 'choice'))
    assert set(aucs.arm) == {'first', 'chosen', 'all'} and aucs.value.between(0, 1).all()
    assert (counts.candidates == 2 * counts.kept).all() and set(pd.read_csv(out / 'gain.csv').control) == {'first'}
    own = pd.read_csv(run / 'tables/auc.csv').set_index('arm').value
    assert aucs.set_index('arm').value['first'] == pytest.approx(own['lora-smis'])
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*.json')}
    choice.main(given)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob('*.json')}
    with pytest.raises(SystemExit):
        choice.main([*given, '--arm', 'oracle'])
    assert "has no arm 'oracle'" in capsys.readouterr().err


def test_a_misspelt_setting_is_one_clean_message(folder):
    (folder / 'wrong.yml').write_text('seeds: [0]\ngenerate: {ramp_width: 3}')
    code, error = medsoft(folder, 'reproduce', '--profile', 'wrong.yml', '--out', 'wrong')
    assert code == 2
    assert 'there is no setting `ramp_width`' in error and 'Traceback' not in error
    assert not (folder / 'wrong').exists()


def test_the_notebooks_run_one_by_one(run, tmp_path):
    "As in JupyterLab, without the command that makes folders for them; those that train long, shorter"
    notebooks = Path(__file__).parent.parent / 'nbs/experiments'
    for part in ('data', 'seed-3/trained', 'seed-3/synthetic', 'seed-3/scores/scores.csv'):
        source, target = run / part, tmp_path / 'runs/step-by-step' / part.replace('seed-3', 'seed-0')
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copy(source, target)
        else:  # without the record of who made it, as if made by hand: nothing of it runs again
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('job.json'))
    shown = ['base', 'lora-smis']
    shorter = {
        'quality': dict(arms=shown, extractor='medsoft-tiny'),
        'report': dict(arms=shown, examples=1),
        'qualitative': dict(examples=1),
        'tsne': dict(steps=3),
        'ratio': dict(steps=3, ratios=[0.5, 1], image_size=32),
    }
    for step in ('quality', 'report', 'qualitative', 'ablation', 'tsne', 'ratio', 'reader'):
        papermill.execute_notebook(
            str(notebooks / f'{step}.ipynb'),
            str(tmp_path / f'{step}.ipynb'),
            shorter.get(step, {}),
            cwd=str(tmp_path),
            progress_bar=False,
            kernel_name='python3',
        )
    for left in (
        'tables/auc.md',
        'tables/ablation.md',
        'tables/ratio.csv',
        'figures/qualitative.svg',
        'figures/tsne.pdf',
        'figures/ratio.png',
    ):
        assert (tmp_path / 'runs/step-by-step' / left).exists(), left


def test_a_notebook_alone_runs_what_it_lacks(tmp_path):
    "And each number of diseased images in a run folder of its own"
    papermill.execute_notebook(
        str(Path(__file__).parent.parent / 'nbs/experiments/scarcity.ipynb'),
        str(tmp_path / 'scarcity.ipynb'),
        dict(n_diseased=[6]),
        cwd=str(tmp_path),
        progress_bar=False,
        kernel_name='python3',
    )
    table = pd.read_csv(tmp_path / 'runs/scarcity/tables/scarcity.csv')
    assert set(table.arm) == {'real-only', 'classical', 'copy-paste', 'lora-smis'} and set(table.n_diseased) == {6}
    assert (tmp_path / 'runs/scarcity/n_diseased-6/notebooks/seed-0-classify.ipynb').exists()


def test_changed_images_are_noticed(tmp_path):
    "A run on a manifest of one's own begins anew when an image changes, not only when a row does"
    from medsoft_nb.running.profile import load_profile
    from medsoft_nb.running.layout import plan
    from medsoft_nb.phantom.benchmarks import make_benchmark

    m = make_benchmark('phantom-fracture', tmp_path / 'data', n_healthy=2, n_diseased=2)

    def first():
        return plan(load_profile('quick'), tmp_path / 'data/manifest.csv')[0].fingerprint

    before = first()
    assert first() == before
    (m.root / m.df.image.iloc[0]).write_bytes((m.root / m.df.image.iloc[1]).read_bytes())
    assert first() != before
