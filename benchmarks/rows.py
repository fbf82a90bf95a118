"""Time and memory of what reads the whole table of a manifest: load, validate, split, leakage gate.

    python benchmarks/rows.py --rows 100000 1000000

Five images a patient, a quarter of the patients with a lesion; one picture stands behind all rows. No image is read.
Each size runs in a process of its own.
"""

import argparse, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd
from medsoft_nb.core.images import write_image
from medsoft_nb.core.seeds import rng
from medsoft_nb.data.manifest import Manifest, validate
from medsoft_nb.data.splits import check_origins, split


def write_table(folder: Path, rows: int) -> Path:
    write_image(folder / 'a.png', rng('rows', 0).integers(0, 255, (32, 32)).astype(np.uint8))
    numbers = np.arange(rows)
    table = pd.DataFrame(
        dict(
            image_id=[f'i{k}' for k in numbers],
            patient_id=[f'p{k // 5}' for k in numbers],
            image='a.png',
            label=np.where(numbers // 5 % 4 == 0, 'lytic', 'healthy'),
            modality='MR',
            plane='sagittal',
        )
    )
    table.to_csv(folder / 'manifest.csv', index=False)
    return folder / 'manifest.csv'


def measure(rows: int) -> None:
    "Print a line of the table"
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(Path(folder), rows)
        times = [time.perf_counter()]
        manifest = Manifest.load(path)
        times.append(time.perf_counter())
        validate(manifest, files=False)
        times.append(time.perf_counter())
        shared = split(manifest, (0.6, 0.1, 0.3))
        times.append(time.perf_counter())
        check_origins(shared.where(split='train').df, shared.where(split='test').df)
        times.append(time.perf_counter())
    seconds = np.diff(times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(rows, *(f'{s:.1f}' for s in seconds), f'{seconds.sum():.1f}', f'{peak:.2f}', sep='\t', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, nargs='+', default=[100_000, 1_000_000])
    parser.add_argument('--one', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one)
    else:
        print('rows', 'load', 'validate', 'split', 'gate', 'seconds', 'GiB', sep='\t', flush=True)
        for rows in args.rows:
            subprocess.run([sys.executable, __file__, '--one', str(rows)], check=True)
