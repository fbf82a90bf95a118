"The grid under Snakemake: several jobs at a time, parts of it killed, and what a user is told."

import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import nbformat, psutil, pytest, yaml
from copies import Copy
from medsoft_nb.core.files import read_json
from medsoft_nb.running.layout import layout
from medsoft_nb.running.table import GRID, workflow_path
from medsoft_nb.running.jobs import JobError, run_job
from medsoft_nb.running.notebooks import write_notebook
from medsoft_nb.running.profile import Step, Workflow
from medsoft_nb.running.reproduce import dry_run, reproduce
from medsoft_nb.running.snakemake import snakemake_command

pytestmark = pytest.mark.slow

steps = (
    Step('prepare', 'data', seeded=False, gpu=False),
    Step('draw', 'numbers', needs=('prepare',)),
    Step('report', 'tables', seeded=False, needs=('draw',), gpu=False),
)

medsoft = '''
import sys
from functools import partial
from medsoft_nb.apps import cli
from medsoft_nb.running import reproduce as grid
from medsoft_nb.running.profile import Step, Workflow
workflow = Workflow(STEPS, '.')
for name in ('reproduce', 'dry_run', 'what_lacks'):
    setattr(grid, name, partial(getattr(grid, name), workflow=workflow))
cli.main(['reproduce', '--profile', 'profile.yml', '--out', 'run', *sys.argv[1:]])'''.replace('STEPS', repr(steps))

books = {
    'prepare': [
        "run = '.'\nn = 1\nbenchmark = ''",
        "import os; open('data/tries.txt', 'a').write('x')",
        "if benchmark == 'b': os.kill(os.getpid(), 9)",
        "open('data/n.txt', 'w').write(str(n))\n"
        "open('data/gpu.txt', 'w').write(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))",
    ],
    'draw': [
        "run = '.'\nseed = 0\nbad = -1",
        "import os, time; from pathlib import Path",  # a job that is slow, and resumes from its own files
        "import json\n"
        "env = {k: os.environ.get(k) for k in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')}\n"
        "Path(f'seed-{seed}/numbers/env.json').write_text(json.dumps(env))",
        "if seed == bad: raise KeyError('no such bone')",
        "folder = Path(f'seed-{seed}/numbers')\n"
        "for i in range(10):\n"
        "    p = folder/f'{i}.txt'\n"
        "    if p.exists(): continue\n"
        "    time.sleep(.1)\n"
        "    p.write_text(str(seed*100+i))",
    ],
    'report': [
        "run = '.'\nseeds = []",
        "from pathlib import Path; print(sum(int(p.read_text()) for p in Path().glob('seed-*/numbers/*.txt')))",
    ],
}


def write_books(folder, profile='seeds: [0, 1]\nprepare: {n: 5}'):
    folder.mkdir(exist_ok=True)
    for name, cells in books.items():
        write_notebook(folder / f'{name}.ipynb', *cells)
    (folder / 'profile.yml').write_text(profile)
    return folder


@pytest.fixture
def experiment(tmp_path):
    return write_books(tmp_path)


def start(folder, *words, **env):
    return Copy(medsoft, *words, cwd=folder, **env)


def go(folder, *words, code=0, **env):
    "Output of `medsoft reproduce` when it is over"
    process = start(folder, *words, **env)
    out, error = process.communicate(timeout=600)
    assert process.returncode == code, out + error
    return out if code == 0 else error


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(0.02)
    return found


def processes(folder, key='MEDSOFT_GRID_RUN'):
    "Processes that work for the run in `folder`: Snakemake, workers, kernels"
    found = []
    for p in psutil.process_iter():
        try:
            if p.status() != psutil.STATUS_ZOMBIE and str(folder / 'run') in p.environ().get(key, ''):
                found.append(p)
        except psutil.Error:
            pass
    return found


def workers(folder):
    return [p for p in processes(folder) if p.name().startswith('python') and p.cmdline()[1:2] == ['-c']]


def numbers(folder):
    return {
        str(p.relative_to(folder / 'run')): p.read_text()
        for p in sorted((folder / 'run').glob('seed-*/numbers/*.txt'))
    }


def timings(folder):
    return {job['job']: job for job in read_json(folder / 'run/run.json')['results']['jobs']}


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "A run of two jobs at a time, on two GPUs that are numbered 7 and 9"
    folder = write_books(tmp_path_factory.mktemp('undisturbed') / 'it')
    go(folder, '--gpus', '2', CUDA_VISIBLE_DEVICES='7,9')
    return folder


def test_injected_values_are_used_and_each_job_has_a_gpu(undisturbed):
    run = undisturbed / 'run'
    assert (run / 'data/n.txt').read_text() == '5'
    assert numbers(undisturbed) == {f'seed-{s}/numbers/{i}.txt': str(100 * s + i) for s in (0, 1) for i in range(10)}
    assert str(sum(range(10)) + sum(range(100, 110))) in (run / 'report.html').read_text()
    envs = [read_json(run / f'seed-{s}/numbers/env.json') for s in (0, 1)]
    assert {e['CUDA_VISIBLE_DEVICES'] for e in envs} <= {'7', '9'} and (run / 'data/gpu.txt').read_text() == ''
    assert {e['OMP_NUM_THREADS'] for e in envs} == {'1'}
    assert list(timings(undisturbed)) == ['prepare', 'seed-0/draw', 'seed-1/draw', 'report'] and not processes(
        undisturbed
    )


def test_jobs_at_a_time_have_different_gpus(undisturbed):
    "They ran side by side, or the check above says little"
    start_end = [
        nbformat.read(undisturbed / f'run/notebooks/seed-{s}-draw.ipynb', 4).metadata.papermill for s in (0, 1)
    ]
    assert start_end[0].start_time < start_end[1].end_time and start_end[1].start_time < start_end[0].end_time
    assert (
        len({read_json(undisturbed / f'run/seed-{s}/numbers/env.json')['CUDA_VISIBLE_DEVICES'] for s in (0, 1)}) == 2
    )


def test_nothing_runs_twice_and_a_change_repeats_what_depends_on_it(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / 'it')
    before = {
        p: p.stat().st_mtime_ns
        for p in (folder / 'run').rglob('*')
        if p.is_file() and p.name not in ('run.json', 'report.html', '.lock', 'SHA256SUMS')
    }
    go(folder)
    assert all(job['resumed'] for job in timings(folder).values())
    assert before == {
        p: p.stat().st_mtime_ns
        for p in (folder / 'run').rglob('*')
        if p.is_file() and p.name not in ('run.json', 'report.html', '.lock', 'SHA256SUMS')
    }
    assert '0 jobs: nothing to do.' in go(folder, '--dry-run')
    (folder / 'profile.yml').write_text('seeds: [0, 1]\nprepare: {n: 5}\ndraw: {bad: 7}')
    listed = go(folder, '--dry-run', '--jobs', '2').splitlines()
    assert [line.split()[0] for line in listed] == [
        'seed-0/draw',
        'seed-1/draw',
        'report',
        '3',
    ] and 'going by earlier runs' in listed[-1]


def test_a_run_without_snakemake_is_recognised(experiment):
    "Records are those of single jobs: what ran in one process, in order, is done"
    workflow = Workflow(steps[:1], experiment)
    root, (e,) = layout(experiment / 'profile.yml', experiment / 'run', workflow=workflow)
    for job in e.jobs:
        run_job(job, root)
    assert dry_run(experiment / 'profile.yml', experiment / 'run', workflow=Workflow(steps[:1], experiment))[0] == []
    assert [
        r['job']
        for r in dry_run(experiment / 'profile.yml', experiment / 'run', workflow=Workflow(steps[:2], experiment))[0]
    ] == ['seed-0/draw', 'seed-1/draw']
    assert (root / 'data/tries.txt').read_text() == 'x'
    (run,) = reproduce(experiment / 'profile.yml', root, workflow=Workflow(steps[:1], experiment), resume=False)
    assert (
        not read_json(run.path('run.json'))['results']['jobs'][0]['resumed']
        and (root / 'data/tries.txt').read_text() == 'x'
    )  # begun anew: its folder was emptied


def test_a_killed_run_goes_on_where_it_stopped(experiment, undisturbed):
    run = experiment / 'run'
    first = start(experiment, '--jobs', '2')
    wait_for(lambda: len(list(run.glob('seed-*/numbers/*.txt'))) >= 5)
    orphans = processes(experiment)
    assert len(orphans) >= 3
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert sorted(p.name for p in (run / 'notebooks').glob('[!.]*')) == ['prepare.ipynb'], 'a cut-off job looks done'
    wait_for(lambda: not processes(experiment))  # nobody has to end them
    written = {p: p.stat().st_mtime_ns for p in run.glob('seed-*/numbers/*.txt')}
    go(experiment, '--jobs', '2')
    jobs = timings(experiment)
    assert jobs['prepare']['resumed'] and not jobs['seed-0/draw']['resumed']
    assert len([p for p, t in written.items() if p.stat().st_mtime_ns == t]) >= 5, (
        'images that were there were made again'
    )
    assert numbers(experiment) == numbers(undisturbed)
    assert not list((run / 'notebooks').glob('.*running*'))


def test_workers_end_with_their_master(experiment, undisturbed):
    "It gets SIGKILL at one moment after the other; `MEDSOFT_KILLS` says how often"
    kills = int(os.environ.get('MEDSOFT_KILLS', 1))
    for k in range(kills):
        master = start(experiment, '--jobs', '2')
        wait_for(lambda: master.poll() is not None or workers(experiment))
        wait_for(lambda: master.poll() is not None or len(numbers(experiment)) > 20 * k // kills)
        master.send_signal(signal.SIGKILL)
        master.wait()
        wait_for(lambda: not processes(experiment))  # nobody has to end them
    go(experiment, '--jobs', '2')
    assert numbers(experiment) == numbers(undisturbed)
    assert not list((experiment / 'run').rglob('.*.tmp*'))


def test_a_killed_worker_is_replaced(experiment, undisturbed):
    "A small cluster: two workers, one of them killed in the middle of its job"
    first = start(experiment, '--jobs', '2')
    wait_for(lambda: len(list((experiment / 'run').glob('seed-1/numbers/[0-9].txt'))) >= 3)
    (victim,) = [p for p in workers(experiment) if any('seed-1-draw' in word for word in p.cmdline())]
    victim.kill()
    out, error = first.communicate(timeout=600)
    assert first.returncode == 0, error
    assert numbers(experiment) == numbers(undisturbed)
    assert 'Trying to restart' in (experiment / f'run/{GRID}/snakemake.log').read_text()


def test_two_runs_do_not_share_a_folder_and_a_run_that_is_stopped_leaves_nothing_behind(experiment):
    first = start(experiment)
    try:
        wait_for(lambda: (experiment / 'run/data/job.json').exists())
        first.send_signal(signal.SIGSTOP)  # it holds the folder, however slow the second is
        assert 'Another process is at work' in go(experiment, code=2)
    finally:
        first.send_signal(signal.SIGCONT)
    assert processes(experiment)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=600)
    assert first.returncode == 128 + signal.SIGTERM and not processes(experiment)


def test_a_failed_notebook_is_one_clean_message_and_the_others_run(experiment):
    (experiment / 'profile.yml').write_text('seeds: [0, 1]\ndraw: {bad: 0}')
    error = go(experiment, '--jobs', '2', code=2)
    assert (
        "Error: seed-0/draw failed: KeyError: 'no such bone'" in error
        and f"See {experiment / 'run/notebooks/seed-0-draw.ipynb'}" in error
    )
    assert (
        'Traceback' not in error and 'SNAKEMAKE' not in error and 'Not done, since they build on it: report.' in error
    )
    assert (
        len(list((experiment / 'run/seed-1/numbers').glob('*.txt'))) == 10
        and not (experiment / 'run/report.html').exists()
    )
    assert (experiment / f'run/{GRID}/logs').is_dir()
    assert [
        r['job']
        for r in dry_run(experiment / 'profile.yml', experiment / 'run', workflow=Workflow(steps, experiment))[0]
    ] == ['seed-0/draw', 'report']


def test_benchmarks_share_a_grid_and_one_that_dies_leaves_the_other(experiment):
    "A kernel that is killed each time, by a want of memory say, is tried twice and then reported"
    (experiment / 'profile.yml').write_text('seeds: [0]\nprepare: {benchmark: [a, b]}')
    with pytest.raises(JobError, match='b/prepare was cut off: killed, or out of memory?'):
        reproduce(experiment / 'profile.yml', experiment / 'run', workflow=Workflow(steps[:1], experiment), jobs=2)
    assert (
        read_json(experiment / 'run/a/run.json')['results']['jobs'][0]['job'] == 'prepare'
        and (experiment / 'run/a/report.html').is_file()
    )
    assert (
        'finished' not in read_json(experiment / 'run/b/run.json')
        and (experiment / 'run/b/data/tries.txt').read_text() == 'xx'
    )


def test_without_snakemake_the_user_is_told(monkeypatch, experiment):
    from medsoft_nb.running import reproduce as grid

    monkeypatch.setattr(grid, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'medsoft_nb\[workflow\]'"):
        reproduce(experiment / 'profile.yml', experiment / 'run')
    assert not (experiment / 'run').exists()


def test_a_thousand_jobs_are_listed(tmp_path):
    folder = write_books(tmp_path, f'seeds: {list(range(998))}')
    given = dict(profile=folder / 'profile.yml', out=folder / 'run', workflow=Workflow(steps, folder))
    rows, seconds = dry_run(**given)
    assert len(rows) == 1000 and seconds is None
    reproduce(**given, table_only=True)
    done = subprocess.run(
        [*snakemake_command(folder / 'run'), '--dry-run', '--quiet', 'rules'], capture_output=True, text=True
    )
    assert done.returncode == 0 and '1001' in done.stdout + done.stderr


@pytest.mark.parametrize('name', ['slurm', 'kubernetes'])
def test_cluster_profiles_list_the_right_jobs(name, tmp_path):
    "By hand, on the table of the quick profile, with the lines for GPUs; what needs plugins is taken out"
    reproduce('quick', tmp_path / 'run', table_only=True)
    text = workflow_path('profiles', name, 'config.yaml').read_text()
    assert 'set-resources' not in yaml.safe_load(text)
    found = yaml.safe_load(re.sub(r'^# (set-resources:|  \w+: {.*)$', r'\1', text, flags=re.M))
    assert found['executor'] == name and set(found['set-resources']) == {'finetune', 'generate', 'quality', 'classify'}
    plain = {
        k: v
        for k, v in found.items()
        if k not in ('executor', 'jobs', 'default-storage-provider') and not k.startswith(name)
    }
    (tmp_path / 'profile').mkdir()
    (tmp_path / 'profile/config.yaml').write_text(yaml.safe_dump({**plain, 'cores': 8}))
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'snakemake',
            '-s',
            workflow_path('Snakefile'),
            '-d',
            tmp_path / 'run' / GRID,
            '--profile',
            tmp_path / 'profile',
            '--dry-run',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert {
        step: text.count(f'\nrule {step}:')
        for step in ('prepare', 'finetune', 'generate', 'quality', 'classify', 'report')
    } == {'prepare': 1, 'finetune': 3, 'generate': 3, 'quality': 3, 'classify': 3, 'report': 1}
    gpu = 'gres=gpu:1' if name == 'slurm' else 'gpu=1'
    assert text.count('threads: 8') == 6 and text.count('mem_mb=8000') == 15 and text.count(gpu) == 12


def test_the_table_names_no_folder_of_one_machine(tmp_path):
    "A node that sees the run under another path, and has the software elsewhere, can work on it"
    reproduce('quick', tmp_path / 'run', table_only=True)
    text = (tmp_path / 'run' / GRID / 'jobs.json').read_text()
    assert (
        str(tmp_path) not in text
        and str(Path(__file__).parent.parent) not in text
        and len(json.loads(text)['jobs']) == 14
    )


def test_a_cluster_that_starts_jobs_by_a_command(experiment, undisturbed, tmp_path):
    "As on a cluster: this process is killed while submitted jobs run; the same command waits for them"
    pytest.importorskip('snakemake_executor_plugin_cluster_generic')
    profile = tmp_path / 'profile'
    profile.mkdir()
    (profile / 'submit').write_text('#!/bin/sh\nsetsid nohup sh "$1" > /dev/null 2>&1 &\necho $!\n')
    (profile / 'submit').chmod(0o755)
    (profile / 'config.yaml').write_text(
        yaml.safe_dump(
            {
                'executor': 'cluster-generic',
                'cluster-generic-submit-cmd': str(profile / 'submit'),
                'jobs': 2,
                'seconds-between-status-checks': 1,
            }
        )
    )
    first = start(experiment, '--workflow-profile', str(profile))
    wait_for(lambda: len(list((experiment / 'run').glob('seed-*/numbers/[0-9].txt'))) >= 3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    go(experiment, '--workflow-profile', str(profile))
    assert numbers(experiment) == numbers(undisturbed) and not processes(experiment)


def test_lists_of_settings_are_a_grid_of_experiments(experiment):
    from medsoft_nb.running.layout import layout

    (experiment / 'prepare.ipynb').rename(experiment / 'old.ipynb')
    nb = nbformat.read(experiment / 'old.ipynb', 4)
    nb.cells[0].source += '\nn_diseased = 3'
    nbformat.write(nb, experiment / 'prepare.ipynb')
    (experiment / 'profile.yml').write_text('seeds: [0]\nprepare: {benchmark: [a, b], n_diseased: [5, 10]}')
    root, found = layout(experiment / 'profile.yml', experiment / 'run', workflow=Workflow(steps, experiment))
    assert [str(e.out.relative_to(root)) for e in found] == [
        'a/n_diseased-5',
        'a/n_diseased-10',
        'b/n_diseased-5',
        'b/n_diseased-10',
    ]
    assert found[1].jobs[0].parameters['n_diseased'] == 10 and found[3].settings['title'] == 'profile: b/n_diseased-10'
    assert len({e.mark(job) for e in found for job in e.jobs}) == sum(len(e.jobs) for e in found)
    (experiment / 'profile.yml').write_text('seeds: [0]\nprepare: {n_diseased: []}')
    with pytest.raises(ValueError, match='names nothing to run'):
        layout(experiment / 'profile.yml', workflow=Workflow(steps, experiment))
