"A real SLURM of one node on this machine: a grid through it, with a job that is cancelled in the middle."

import importlib.util, os, re, shutil, socket, subprocess, tempfile
from pathlib import Path
import pytest
from medsoft_nb.core.files import read_json
from medsoft_nb.running.table import workflow_path
import test_grid as grid

wanted = ('munged', 'slurmctld', 'slurmd', 'sbatch')
missing = [name for name in wanted if not shutil.which(name, path=os.environ['PATH'] + ':/usr/sbin:/sbin')]
if not importlib.util.find_spec('snakemake_executor_plugin_slurm'):
    missing += ['snakemake-executor-plugin-slurm']
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f'no SLURM on this machine: {", ".join(missing)} not found'),
]


def free_port():
    "The first of two ports that nobody uses"
    for port in range(21000, 29000, 2):
        try:
            for p in (port, port + 1):
                with socket.socket() as s:
                    s.bind(('127.0.0.1', p))
            return port
        except OSError:
            continue


@pytest.fixture(scope='module')
def slurm():
    "Environment in which the SLURM is found; two processors to hand out, however many there are"
    folder = tempfile.mkdtemp(prefix='slurm-', dir='/tmp')  # sockets need a short path
    own = dict(SLURM_HERE=folder, SLURM_HERE_PORT=str(free_port()), SLURM_HERE_CPUS='2', SLURM_HERE_GPUS='1')
    script, env = str(workflow_path('slurm-here.sh')), {**os.environ, **own}
    try:
        started = subprocess.run(['sh', script, 'start'], env=env, capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        env.pop('JUPYTER_PATH', None)  # kernels that belong to their job, not copies that the tests' server makes
        conf, binaries = re.findall(r"'([^']+)'", started.stdout)
        yield {**env, 'SLURM_CONF': conf, 'PATH': f'{binaries}:{env["PATH"]}', 'MEDSOFT_PROGRESS': '0'}
    finally:
        subprocess.run(['sh', script, 'stop'], env=env, check=True)
        shutil.rmtree(folder)


def ended(slurm):
    "What SLURM noted of the jobs that ended"
    path = Path(slurm['SLURM_HERE'], 'jobs.txt')
    lines = path.read_text().splitlines() if path.exists() else []
    return [dict(re.findall(r'(\w+)=(\S*)', line)) for line in lines]


def shown(slurm):
    return subprocess.run(['scontrol', 'show', 'job'], env=slurm, capture_output=True, text=True).stdout


def running_job(slurm, step):
    "Number of the SLURM job that runs a step, or of a job that is named so, or nothing"
    asked = subprocess.run(['squeue', '-h', '-t', 'R', '-o', '%i %k'], env=slurm, capture_output=True, text=True)
    return next((line.split()[0] for line in asked.stdout.splitlines() if step in line), None)


def test_a_cancelled_job_is_submitted_again_and_goes_on(tmp_path, slurm):
    "A grid of quick notebooks: what the cancelled job had written stays"
    folder = grid.write_books(tmp_path / 'it')
    book = folder / 'draw.ipynb'
    book.write_text(book.read_text().replace('time.sleep(.1)', 'time.sleep(.5)'))
    words = '--workflow-profile slurm --threads 1 --memory 1000 --partition main --gres gpu:1'.split()
    process = grid.start(folder, *words, **slurm)
    written = grid.wait_for(lambda: len(found := list(folder.glob('run/seed-1/numbers/[0-9].txt'))) >= 3 and found)
    times = {path: path.stat().st_mtime_ns for path in written}
    number = running_job(slurm, 'seed-1-draw')
    subprocess.run(['scancel', number], env=slurm, check=True)
    error = process.communicate(timeout=600)[1]
    assert process.returncode == 0, error
    states = {job['JobId']: job['JobState'] for job in ended(slurm)}
    assert states.pop(number) == 'CANCELLED' and list(states.values()) == ['COMPLETED'] * 4
    assert {path: path.stat().st_mtime_ns for path in written} == times
    assert grid.numbers(folder) == {f'seed-{s}/numbers/{i}.txt': str(100 * s + i) for s in (0, 1) for i in range(10)}
    assert shown(slurm).count('TresPerNode=gres:gpu:1') == 3  # both of `draw`, and the one that was cancelled
    assert {read_json(folder / f'run/seed-{s}/numbers/env.json')['OMP_NUM_THREADS'] for s in (0, 1)} == {'1'}
    assert str(sum(range(10)) + sum(range(100, 110))) in (folder / 'run/report.html').read_text()
