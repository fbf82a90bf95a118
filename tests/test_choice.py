"`medsoft choose` on simulated lesions: what is kept, what is written beside it, and what is refused"

import numpy as np, pandas as pd, pytest
from command import medsoft
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.data.splits import split
from medsoft_nb.evaluation.planted import plant_copies
from medsoft_nb.phantom.benchmarks import make_benchmark

pytestmark = pytest.mark.trains


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Real images with splits, and candidates: lesions of others, and copies of training lesions"
    folder = tmp_path_factory.mktemp('choice')
    real = make_benchmark('phantom-tumour', folder / 'real', n_healthy=20, n_diseased=60, seed=2)
    real = split(real, (0.5, 0.25, 0.25), seed=0)
    real.save(folder / 'real/manifest.csv')
    train = real.where(split='train')
    lesions = train.where(label=train.diseases)
    made = make_benchmark('phantom-tumour', folder / 'made', n_healthy=2, n_diseased=18, seed=9)
    made = made.where(label=made.diseases).assign(image_id=[f'new-{k}' for k in range(18)])
    copies = plant_copies(lesions.rows(range(4)), folder / 'made/copies')
    made.concat(copies).save(folder / 'made/candidates.csv')
    return folder


def choose(folder, *words, real='real/manifest.csv', n=3):
    given = [folder / 'made/candidates.csv', '--train', folder / real, '--n-per-label', n, '--steps', 5, *words]
    return medsoft('choose', *given)


@pytest.fixture(scope='module')
def chosen(folder):
    "What the command prints; it writes made/chosen.csv"
    code, text = choose(folder, '--out', folder / 'made/chosen.csv')
    assert code == 0, text
    return text


def test_it_writes_what_is_kept_and_what_the_critic_said(folder, chosen):
    out, text = folder / 'made/chosen.csv', chosen
    kept, candidates = Manifest.load(out), Manifest.load(folder / 'made/candidates.csv')
    assert set(kept.df.label.value_counts()) == {3} and '9 images' in text
    said = pd.read_csv(folder / 'made/chosen_critic.csv')
    assert set(said.image_id) == set(candidates.df.image_id)
    assert set(said[said.kept].image_id) == set(kept.df.image_id) and not (said.kept & said.copied).any()
    assert said.copied.any()
    where = {name: i for i, name in enumerate(candidates.df.image_id)}
    assert all(np.array_equal(kept.image(i), candidates.image(where[name])) for i, name in enumerate(kept.df.image_id))


def test_it_gives_the_same_choice_twice(folder, chosen):
    assert choose(folder, '--out', folder / 'made/again.csv')[0] == 0
    one, two = ((folder / f'made/{name}_critic.csv').read_text() for name in ('chosen', 'again'))
    assert one == two


def test_what_cannot_be_chosen_is_said_and_nothing_is_written(folder):
    real = Manifest.load(folder / 'real/manifest.csv')
    real.assign(split='test').save(folder / 'real/test.csv')
    before = set((folder / 'made').iterdir())
    for words, options, sentence in (
        (('--out', folder / 'made/candidates.csv'), {}, 'is there already'),
        (('--out', folder / 'made/chosen'), {}, 'does not end with .csv or .parquet'),
        (('--out', folder / 'made/new.csv'), dict(n=99), '99 images of'),
        (('--out', folder / 'made/new.csv'), dict(real='real/test.csv'), 'needs healthy and diseased images'),
        (('--out', folder / 'made/new.csv'), dict(real='real/nowhere.csv'), 'nowhere.csv'),
    ):
        code, text = choose(folder, *words, **options)
        assert code and sentence in text.replace('\n', ' ') and 'Traceback' not in text, text
    assert set((folder / 'made').iterdir()) == before


def test_without_validation_patients_copies_are_not_looked_for_and_it_says_so(folder):
    real = Manifest.load(folder / 'real/manifest.csv')
    real.where(split=['train', 'test']).save(folder / 'real/without.csv')
    code, text = choose(folder, '--out', folder / 'made/unchecked.csv', real='real/without.csv')
    assert code == 0 and 'Not checked for copies' in text
    assert not pd.read_csv(folder / 'made/unchecked_critic.csv').copied.any()
