"""How far two runs of one experiment differ, seed by seed: for runs on two machines, or in two numeric worlds.

    MEDSOFT_BF16=0 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 medsoft reproduce --out runs/elsewhere
    python benchmarks/compare_runs.py runs/quick runs/elsewhere

Compared are the seeds that both runs have: the AUC of each arm, overall and of each disease, and every figure of
quality and agreement.
"""

import argparse
from pathlib import Path

import pandas as pd
from medsoft_nb.statistics.scores import auc, test_rows

KEYS = ['table', 'seed', 'arm', 'metric', 'label']


def auc_rows(scores: pd.DataFrame) -> pd.DataFrame:
    "AUC of each arm, overall and of each disease against healthy, from the scores of test images"
    rows = []
    for arm, group in test_rows(scores).groupby('arm'):
        healthy, diseased = group[group.y == 0], group[group.y == 1]
        kinds = {'': group} | {label: pd.concat([healthy, own]) for label, own in diseased.groupby('label')}
        for label, kind in kinds.items():
            rows.append(dict(arm=arm, metric='auc', label=label, value=auc(kind.y, kind.score)))
    return pd.DataFrame(rows)


def read_seed(folder: Path) -> pd.DataFrame:
    "Everything that was measured with one seed"
    tables = dict(classify=auc_rows(pd.read_csv(folder / 'scores/scores.csv')))
    tables |= {name: pd.read_csv(folder / f'quality/{name}.csv') for name in ('quality', 'agreement')}
    rows = pd.concat([table.assign(table=name) for name, table in tables.items()])
    return rows.assign(label=rows.label.fillna(''), seed=folder.name)[[*KEYS, 'value']]


def compare(first: Path, second: Path) -> pd.DataFrame:
    "Values of both runs side by side, with their differences"
    both = [{p.name: p for p in run.glob('seed-*') if (p / 'scores/scores.csv').is_file()} for run in (first, second)]
    shared = sorted(both[0].keys() & both[1].keys())
    if not shared:
        raise SystemExit(f'{first} and {second} have no finished seed in common.')
    tables = [pd.concat([read_seed(run[seed]) for seed in shared]) for run in both]
    merged = tables[0].merge(tables[1], on=KEYS, suffixes=('_first', '_second'), validate='one_to_one')
    if not len(merged) == len(tables[0]) == len(tables[1]):
        raise SystemExit(f'the runs have other rows: {len(tables[0])}, {len(tables[1])}, shared {len(merged)}.')
    difference = (merged.value_first - merged.value_second).abs()
    larger = merged[['value_first', 'value_second']].abs().max(axis=1)
    return merged.assign(difference=difference, relative=(difference / larger).fillna(0))


def largest(rows: pd.DataFrame) -> pd.DataFrame:
    "The largest difference of each metric"
    kind = rows.metric.where(rows.label == '', rows.metric + ' by label')
    grouped = rows.assign(metric=kind).groupby(['table', 'metric'])
    return grouped.agg(rows=('value_first', 'size'), difference=('difference', 'max'), relative=('relative', 'max'))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('first', type=Path)
    parser.add_argument('second', type=Path)
    parser.add_argument('--out', type=Path, help='CSV of all rows')
    a = parser.parse_args(argv)
    rows = compare(a.first, a.second)
    if a.out:
        rows.to_csv(a.out, index=False)
    print(largest(rows).reset_index().to_string(index=False, float_format='{:.3g}'.format))


if __name__ == '__main__':
    main()
