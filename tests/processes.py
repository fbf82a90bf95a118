"""Trainings by several processes, for `test_processes`: copies of this one, which imports torch once.

processes.py FOLDER     does the trainings that the test looks at, into FOLDER
"""

import json, os, signal, socket, sys
from pathlib import Path
import torch
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.models.controller import Controller
from medsoft_nb.models.encoders import load_encoder
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.training import trainer
from medsoft_nb.training.stages import Training

SMALL = Training(
    steps=4,
    batch_size=4,
    rank=2,
    roi=32,
    variants=1,
    save_every=2,
    learning_rate=5e-3,
    controller_rate=1e-3,
    targets=('to_q', 'to_v'),
)


def die_after(steps):
    "Let this process be killed at a step"
    real, done = trainer.take_step, []

    def take_step(*args):
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(real(*args))
        return done[-1]

    trainer.take_step = take_step


def work(folder, name, stage, dies, **changes):
    "One process's part of a training"
    rows = Manifest.load(folder / 'data/manifest.csv')
    base = tiny_components(1)
    controller = None if stage == 'lora' else Controller.new(load_encoder(), base['unet'], layers=1)
    if dies:
        die_after(3)
    trainer.train(base, rows, folder / name, SMALL.replace(stage=stage, **changes), controller)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def start(folder, name, n=1, stage='lora', dies=(), **changes):
    "A training by `n` processes, copies of this one; those in `dies` are killed on the way"
    port, children = free_port(), []
    for rank in range(n):
        child = os.fork()
        if child == 0:
            with open(folder / f'{name}-{rank}.log', 'a') as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                if n > 1:
                    where = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=n, LOCAL_WORLD_SIZE=n)
                    where |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
                    os.environ.update({key: str(value) for key, value in where.items()})
                code = 1
                torch.set_num_threads(torch.get_num_threads())  # in a copy, before threads do it at once
                try:
                    work(folder, name, stage, rank in dies, **changes)
                    code = 0
                except BaseException as error:
                    print(repr(error), flush=True)
                finally:
                    os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder):
    ended = {}
    for stage in ('lora', '2b'):
        ended[f'{stage}-one'] = start(folder, f'{stage}-one', 1, stage)
    ended['lora-two'] = start(folder, 'lora-two', 2)
    ended['parts'] = start(folder, 'parts', 2, '2b', accumulate=2)
    ended['killed'] = start(folder, 'again', 2, dies=(1,))
    ended['kept'] = (folder / 'again/state.pt').exists()
    ended['again'] = start(folder, 'again', 2)
    ended['uneven'] = start(folder, 'uneven', 2, batch_size=3)
    (folder / 'ended.json').write_text(json.dumps(ended))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
