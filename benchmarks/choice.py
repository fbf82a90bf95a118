"""What a choice of candidates is worth: a finished run paints more of one arm, a critic chooses, classifiers learn.

    python benchmarks/choice.py runs/quick --out runs/choice
    python benchmarks/choice.py runs/quick --out runs/choice --arm lora-smis --times 3

For each seed of the run, `times` as many lesions are painted as the run has; the first of them are those of the run.
A critic (`evaluation.choice`) that knows the few real lesions of the training patients keeps as many as the run has.
Classifiers learn from three sets, with the settings of the run: `first` (the run's own images, whose scores are taken
from it), `chosen`, and `all` candidates. A judge that has learned from the withheld lesions, too, says how many show
what was asked for. Written are auc.csv, gain.csv (paired differences to `first`), agreement.csv and choice.csv.
What is finished is kept: after an interruption give the same command again.
"""

import argparse
from pathlib import Path
import numpy as np, pandas as pd
from medsoft_nb.core.files import make_folder, read_json, write_text
from medsoft_nb.data.arms import PAINTING_ARMS
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.evaluation.agreement import agreement_table, LesionNamer
from medsoft_nb.evaluation.arms import build_arms, train_and_score
from medsoft_nb.evaluation.choice import choice_table, choose_lesions
from medsoft_nb.evaluation.classify import ClassifierSettings, image_side
from medsoft_nb.painting.generate import GenerateConfig
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.running.settings import ClassifySettings, GenerateSettings, QualitySettings
from medsoft_nb.statistics.intervals import bootstrap_auc, paired_difference
from medsoft_nb.training.arms import paint_arm, trained_arm

ROUNDING = 0.01  # Of the brightest grey: processors round a larger batch differently


class Run:
    "A finished run, and the real images of its sides"

    def __init__(self, folder: Path):
        self.folder, self.settings = folder, read_json(folder / 'run.json')['settings']
        self.generate = GenerateSettings(**self.settings['generate'])
        self.quality, self.classify = (
            QualitySettings(**self.settings['quality']),
            ClassifySettings(**self.settings['classify']),
        )
        self.real, self.withheld = (Manifest.load(folder / f'data/{name}.csv') for name in ('manifest', 'withheld'))
        self.train, self.val, self.test = (self.real.where(split=name) for name in ('train', 'val', 'test'))
        self.diseased = self.train.where(label=self.train.diseases)
        self.healthy = self.train.where(label=HEALTHY)


def paint_candidates(run: Run, pipe: MedSoftPipeline, seed: int, arm: str, times: int, out: Path) -> Manifest:
    "As `experiments/generate` paints, and more; the first ones are those of the run"
    given = {name: v for name, v in run.generate.model_dump().items() if name in GenerateConfig.model_fields}
    config = GenerateConfig(**given | dict(seed=seed, n_per_label=times * run.generate.n_per_label))
    trained = trained_arm(PAINTING_ARMS[arm], run.folder / f'seed-{seed}/trained', '')
    labels = run.train.diseases
    return paint_arm(PAINTING_ARMS[arm], pipe, run.healthy, run.diseased, out, labels, trained, config)


def first_of(candidates: Manifest, n_per_label: int) -> Manifest:
    "The first candidates of each label"
    place = candidates.df.groupby('label').cumcount()
    return candidates.rows(np.flatnonzero(place < n_per_label))


def check_same(first: Manifest, own: Manifest) -> None:
    "`ValueError` unless the first candidates show what the run has painted, but for the rounding of other batches"
    where = {name: i for i, name in enumerate(first.df.image_id)}
    for i, name in enumerate(own.df.image_id):
        image = own.image(i).astype(float)
        same = name in where and np.abs(first.image(where[name]) - image).max() <= ROUNDING * image.max()
        if not same:
            raise ValueError(f'{name} is not painted as in the run. Run it anew with the software of today.')


def judge_sets(run: Run, sets: dict, seed: int) -> pd.DataFrame:
    "Agreement by a namer that has learned from the withheld lesions as well"
    judge = LesionNamer(run.quality.namer_steps, seed=seed).fit(run.diseased.concat(run.withheld), run.healthy)
    return agreement_table(sets, judge, run.test.where(label=run.test.diseases), seed=seed).rows


def train_sets(run: Run, sets: dict, seed: int, arm: str, keep: Path) -> pd.DataFrame:
    "Scores of a classifier of each set, with the settings of the run"
    given = {name: v for name, v in run.classify.model_dump().items() if name in ClassifierSettings.model_fields}
    first = given['backbone'] if isinstance(given['backbone'], str) else given['backbone'][0]
    size = given['image_size'] or image_side(run.real)
    settings = ClassifierSettings(**given | dict(backbone=first, image_size=size))
    scores = []
    for name, made in sets.items():
        training = build_arms(run.train, None, {arm: made}, controls=())[arm]
        found = train_and_score(training, run.test, settings, seed, run.val, keep / f'{name}.json')
        scores.append(found.assign(arm=name))
    return pd.concat(scores)


def one_seed(run: Run, pipe: MedSoftPipeline, seed: int, a: argparse.Namespace, out: Path) -> tuple:
    "Scores, agreement, and what became of the candidates"
    n = run.generate.n_per_label
    candidates = paint_candidates(run, pipe, seed, a.arm, a.times, out / 'candidates')
    first = first_of(candidates, n)
    check_same(first, Manifest.load(run.folder / f'seed-{seed}/synthetic/{a.arm}/manifest.csv'))
    critic = LesionNamer(a.critic_steps, seed=seed).fit(run.diseased, run.healthy)
    choice = choose_lesions(candidates, critic, n, run.train, run.val.where(label=run.val.diseases))
    agreement = judge_sets(run, dict(first=first, chosen=choice.kept, all=candidates), seed)
    scores = train_sets(run, dict(chosen=choice.kept, all=candidates), seed, a.arm, out)
    own = pd.read_csv(run.folder / f'seed-{seed}/scores/scores.csv')
    own = own[own.arm == a.arm]
    own = own[own.backbone == own.backbone.iloc[0]].assign(arm='first')[list(scores)]
    return pd.concat([own, scores]), agreement, choice_table(choice).assign(seed=seed)


def make_tables(a: argparse.Namespace) -> pd.DataFrame:
    "All seeds; writes the tables"
    run, out = Run(a.run), a.out
    if a.arm not in run.settings['arms']:
        raise ValueError(f'the run has no arm {a.arm!r}. It painted {", ".join(run.settings["arms"])}.')
    make_folder(out)
    pipe = MedSoftPipeline.from_pretrained(run.generate.base)
    pipe.set_progress_bar_config(disable=True)
    found = [one_seed(run, pipe, seed, a, out / f'seed-{seed}') for seed in run.settings['seeds']]
    scores, agreement, counts = (pd.concat(tables) for tables in zip(*found))
    tables = dict(auc=bootstrap_auc(scores), agreement=agreement, choice=counts)
    tables['gain'] = pd.concat([paired_difference(scores, name, 'first') for name in ('chosen', 'all')])
    for name, table in tables.items():
        write_text(out / f'{name}.csv', table.to_csv(index=False))
    return tables['auc']


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('run', type=Path, help='folder of a finished `medsoft reproduce`')
    parser.add_argument('--out', type=Path, required=True, help='folder of candidates, scores and tables')
    parser.add_argument('--arm', default='lora-smis', help='painted arm')
    parser.add_argument('--times', type=int, choices=range(2, 11), default=3, help='as many candidates as the run has')
    parser.add_argument('--critic-steps', type=int, default=400, help='optimiser steps of the critic')
    a = parser.parse_args(argv)
    try:
        table = make_tables(a)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(table[['arm', 'value', 'lo', 'hi', 'sd', 'n']].round(3).to_markdown(index=False))


if __name__ == '__main__':
    main()
