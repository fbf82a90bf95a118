"""How many planted copies the memorisation gate finds, by kind, and how many honest lesions it accuses.

    python benchmarks/memorisation.py --out runs/memorisation
    python benchmarks/memorisation.py --manifest data/manifest.csv --out runs/memorisation-mine

Without `--manifest`, phantoms: 30 training lesions, 40 held-out ones of other patients, 40 honest ones of patients of
their own. With it, the diseased images of the splits `train`, `val` and `test` of a manifest of yours take these
places; healthy images lend the pictures to blend with and to paste into. The table goes to `copies.csv`.
"""

import argparse
from pathlib import Path
import numpy as np, pandas as pd
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.evaluation.memorisation import memorisation_report
from medsoft_nb.evaluation.planted import KINDS, plant_copies
from medsoft_nb.phantom.benchmarks import make_benchmark


def phantoms(folder: Path) -> tuple:
    "Training, held-out and honest lesions of different patients, and healthy pictures"
    real = make_benchmark('phantom-tumour', folder, n_healthy=20, n_diseased=110, seed=2, per_patient=2)
    diseased = real.where(label=real.diseases)
    parts = [diseased.rows(np.arange(*ends)) for ends in ((0, 30), (30, 70), (70, 110))]
    return *parts, real.where(label=HEALTHY)


def of_manifest(path: Path) -> tuple:
    "The same from the splits of a manifest"
    real = Manifest.load(path)
    parts = [real.where(split=split, label=real.diseases) for split in ('train', 'test', 'val')]
    if not all(map(len, parts)):
        raise SystemExit(f'{path} needs diseased images in the splits train, val and test.')
    return *parts, real.where(label=HEALTHY)


def count(train, held_out, honest, others, folder: Path, every: int, kinds: list) -> pd.DataFrame:
    "Images of each kind, how many of them count as copies, and of how many the original is named"
    copies = plant_copies(train, folder, every, kinds, others)
    judged = copies.concat(honest)
    report = memorisation_report(judged, train, held_out).assign(kind='honest', right=False)
    planted = report.index < len(copies)
    names = report.image_id[planted].str.rsplit('-', n=1, expand=True)
    report.loc[planted, 'kind'] = names[0]
    originals = train.df.image_id.to_numpy()[names[1].astype(int)]
    report.loc[planted, 'right'] = report.nearest_id[planted] == originals
    grouped = report.assign(named=report.copied & report.right).groupby('kind', sort=False)
    table = grouped.agg(images=('copied', 'size'), found=('copied', 'sum'), named=('named', 'sum'))
    return table.join(grouped.evidence.agg(['min', 'median', 'max']).round(2).add_prefix('evidence_')).reset_index()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='folder for the copies and the table')
    parser.add_argument('--manifest', type=Path, help='manifest with splits; phantoms if omitted')
    parser.add_argument('--every', type=int, default=2, help='every how many-th training image is copied')
    parser.add_argument(
        '--kinds', nargs='*', default=list(KINDS), choices=KINDS, help='kinds of copies; all if omitted'
    )
    args = parser.parse_args(argv)
    parts = of_manifest(args.manifest) if args.manifest else phantoms(args.out / 'phantoms')
    table = count(*parts, args.out / 'copies', args.every, args.kinds)
    table.to_csv(args.out / 'copies.csv', index=False)
    print(table.to_string(index=False))


if __name__ == '__main__':
    main()
