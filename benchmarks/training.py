"""A LoRA step and the memory of a training, beside the loop of diffusers' own scripts on the same weights.

    python benchmarks/training.py --roi 64 128 256 --steps 10
    python benchmarks/training.py --roi 64 --memory

Both sides take turns in one run, step by step: same base, window, batch, rank and targets, float32. Ratios are
theirs / ours: above 1 this package is faster, or smaller. `drawn`: windows are cut out and encoded as the steps draw
them; `kept`: a training whose windows are there. Memory is measured in a process for each side.
"""

import argparse, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent
BASE = 'medsoft-tiny'


def memory() -> float:
    "Peak memory of this process in MiB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def read_clocks() -> tuple:  # Wall clock and CPU time in seconds
    return time.perf_counter(), time.process_time()


def since(begun: tuple) -> tuple:
    return tuple(now - then for now, then in zip(read_clocks(), begun))


def their_loop(manifest: Path, base: str, roi: int, batch: int):
    "The loop of diffusers over the diseased images of a manifest"
    import csv
    from diffusers_lora import Loop

    with manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row['label'] != 'healthy']
    pictures = [(manifest.parent / r['image'], manifest.parent / r['lesion_mask'], r['prompt']) for r in rows]
    targets = 'to_q to_k to_v to_out.0 ff.net.0.proj ff.net.2 proj_in proj_out conv1 conv2'.split()
    return Loop(base, pictures, roi, batch, 16, targets, 1e-4)


def our_training(manifest: Path, base: str, out: Path, roi: int, batch: int, steps: int, each=None, cache=None):
    "Train with this package; `each` is called before every step, and its time is not ours"
    from medsoft_nb.data.manifest import Manifest
    from medsoft_nb.training import trainer
    from medsoft_nb.training.stages import Training

    found, real = [], trainer.progress
    trainer.progress = lambda numbers, **kwargs: Clock(numbers, each, found)
    try:
        config = Training(steps=steps, batch_size=batch, roi=roi, learning_rate=1e-4, save_every=10**9)
        trainer.train(base, Manifest.load(manifest), out, config, cache=cache)
    finally:
        trainer.progress = real
    return found


class Clock:
    "Stands for the trainer's progress bar; `found` gets the times of each step"

    def __init__(self, numbers, each, found):
        self.numbers, self.each, self.found = numbers, each, found

    def __iter__(self):
        for number in self.numbers:
            if self.each:
                self.each()
            begun = read_clocks()
            yield number
            self.found.append(since(begun))

    def set_postfix(self, **shown):
        pass


def compare_steps(manifest: Path, base: str, a, roi: int) -> list:
    "Steps in turns, once with windows that are encoded on the way and once with those that are kept"
    loop, rows = their_loop(manifest, base, roi, a.batch), []
    with tempfile.TemporaryDirectory() as d:
        for windows in ('drawn', 'kept'):
            theirs = []

            def their_step():
                begun = read_clocks()
                loop.step()
                theirs.append(since(begun))

            out = Path(d) / windows
            ours = our_training(manifest, base, out, roi, a.batch, a.steps, their_step, Path(d) / 'cache')
            (wall, cpu), (their_wall, their_cpu) = ([median(c) for c in zip(*x[1:])] for x in (ours, theirs))
            ratios = dict(cpu_ratio=their_cpu / cpu, wall_ratio=their_wall / wall)
            seconds = dict(ours_cpu=cpu, theirs_cpu=their_cpu, ours_wall=wall, theirs_wall=their_wall)
            rows.append(dict(roi=roi, windows=windows) | ratios | seconds)
    return rows


def measure_memory(manifest: Path, base: str, a, side: str) -> dict:
    "Peak memory of one side in MiB: after its imports, and after its steps"
    if side == 'theirs':
        import diffusers_lora  # noqa: F401

        imported = memory()
        loop = their_loop(manifest, base, a.roi[0], a.batch)
        for _ in range(a.steps):
            loop.step()
    else:
        from medsoft_nb.training import trainer  # noqa: F401

        imported = memory()
        with tempfile.TemporaryDirectory() as d:
            our_training(manifest, base, Path(d) / 'out', a.roi[0], a.batch, a.steps)
    return dict(side=side, imports=imported, peak=memory())


def compare_memory(a, manifest: Path, base: str) -> list:
    "Peak memory of both sides, in a process of its own each"
    rows = []
    for roi in a.roi:
        found = []
        for side in ('ours', 'theirs'):
            command = [sys.executable, __file__, '--side', side, '--manifest', manifest, '--base', base]
            command += ['--roi', roi, '--batch', a.batch, '--steps', a.steps]
            done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        ours, theirs = found
        beyond = [row['peak'] - row['imports'] for row in found]
        ratios = dict(ratio=ours['peak'] / theirs['peak'], beyond_imports=beyond[0] / beyond[1])
        rows.append(dict(roi=roi, ours=ours['peak'], theirs=theirs['peak']) | ratios)
        rows[-1] |= dict(our_imports=ours['imports'], their_imports=theirs['imports'])
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--base', default=BASE, help='shipped name or folder')
    parser.add_argument('--roi', type=int, nargs='+', default=[64])
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--images', type=int, default=40, help='diseased images; a third as many healthy ones')
    parser.add_argument('--memory', action='store_true', help='memory instead of time')
    parser.add_argument('--side', choices=['ours', 'theirs'], help=argparse.SUPPRESS)
    parser.add_argument('--manifest', type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    os.environ['MEDSOFT_PROGRESS'] = '0'
    os.environ['MEDSOFT_BF16'] = '0'
    if a.side:
        print(json.dumps(measure_memory(a.manifest, a.base, a, a.side)))
        return
    import pandas as pd
    from medsoft_nb.core.logs import get_logger
    from medsoft_nb.models.files import model_folder
    from medsoft_nb.phantom.benchmarks import make_benchmark

    base, rows = str(model_folder(a.base)), []
    with tempfile.TemporaryDirectory() as d:
        size = max(128, *a.roi)
        m = make_benchmark('phantom-tumour', Path(d), n_healthy=a.images // 3, n_diseased=a.images, size=size)
        m.df['prompt'] = m.df.label + ' vertebra'  # short enough for any tokenizer
        manifest = m.save(Path(d) / 'prompts.csv')
        if a.memory:
            rows = compare_memory(a, manifest, base)
        else:
            for roi in a.roi:
                rows += compare_steps(manifest, base, a, roi)
                get_logger().info('%s', rows[-2:])
    print(pd.DataFrame(rows).round(2).to_markdown(index=False))


if __name__ == '__main__':
    main()
