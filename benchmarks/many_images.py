"""What a training costs before its first step, and in memory, for few and for many diseased images.

    python benchmarks/many_images.py --images 20 100 1000 10000 --roi 64 --steps 20

Each number of images runs in a process of its own, on the shipped base. Files of 200 drawn images stand behind all rows.
`share` is the time before the first step as a share of the time of 1,000 steps like those that ran. Windows are cut out
and encoded at the steps that draw them first, and are in the time of the steps.
"""

import argparse, json, resource, subprocess, sys, tempfile, time
from pathlib import Path
import pandas as pd
from medsoft_nb.core.logs import get_logger
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.training import trainer
from medsoft_nb.training.stages import Training


def many_rows(m: Manifest, n: int) -> Manifest:
    "A manifest of `n` diseased rows, each a patient of its own, over the files of `m`"
    rows = pd.concat([m.where(label=m.diseases).df] * -(-n // len(m)), ignore_index=True)[:n]
    names = [f'image-{k}' for k in range(n)]
    return Manifest(rows.assign(image_id=names, patient_id=names), m.root)


def measure(manifest: Path, settings: Training) -> dict:
    "Train once; seconds before the first step and for all of it, peak memory of the process"
    begun, first, real = time.perf_counter(), [], trainer.take_step

    def take_step(*args):
        first.append(time.perf_counter() - begun)
        return real(*args)

    trainer.take_step = take_step
    with tempfile.TemporaryDirectory() as d:
        trainer.train('medsoft-tiny', Manifest.load(manifest), Path(d) / 'trained', settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - begun
    each = (seconds - first[0]) / settings.steps
    return dict(before=first[0], seconds=seconds, step=each, share=first[0] / (1000 * each), gib=peak)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=int, nargs='+', default=[20, 100, 1000])
    parser.add_argument('--roi', type=int, default=64)
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--manifest', type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    settings = Training(steps=a.steps, batch_size=a.batch, roi=a.roi)
    if a.manifest:
        print(json.dumps(measure(a.manifest, settings)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as d:
        size = max(128, a.roi)
        drawn = make_benchmark('phantom-tumour', Path(d) / 'data', n_healthy=0, n_diseased=200, size=size)
        for n in a.images:
            manifest = many_rows(drawn, n).save(Path(d) / f'data/{n}.csv')
            command = [sys.executable, __file__, '--manifest', manifest, '--roi', a.roi, '--steps', a.steps]
            command = [*map(str, command), '--batch', str(a.batch)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(dict(images=n, **json.loads(done.stdout.splitlines()[-1])))
            get_logger().info('%s', rows[-1])
    print(pd.DataFrame(rows).round(4).to_markdown(index=False))


if __name__ == '__main__':
    main()
